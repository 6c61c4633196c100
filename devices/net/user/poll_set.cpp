#include "devices/net/user/poll_set.h"

#include <poll.h>
#include <slirp/libslirp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

#include "vmm/core/error.h"

namespace minivmm::user_net {

namespace {

constexpr uint64_t kOther = uint64_t{1} << 32;  // in an event's tag: no socket of libslirp's

uint32_t to_epoll(int events) {
  const auto wants = [&](int flag) { return (events & flag) != 0; };
  uint32_t result = 0;
  if (wants(SLIRP_POLL_IN)) result |= EPOLLIN;
  if (wants(SLIRP_POLL_OUT)) result |= EPOLLOUT;
  if (wants(SLIRP_POLL_PRI)) result |= EPOLLPRI;
  if (wants(SLIRP_POLL_ERR)) result |= EPOLLERR;
  if (wants(SLIRP_POLL_HUP)) result |= EPOLLHUP;
  return result;
}

int to_slirp(uint32_t events) {
  int result = 0;
  if ((events & EPOLLIN) != 0) result |= SLIRP_POLL_IN;
  if ((events & EPOLLOUT) != 0) result |= SLIRP_POLL_OUT;
  if ((events & EPOLLPRI) != 0) result |= SLIRP_POLL_PRI;
  if ((events & EPOLLERR) != 0) result |= SLIRP_POLL_ERR;
  if ((events & EPOLLHUP) != 0) result |= SLIRP_POLL_HUP;
  return result;
}

int socket_option(int fd, int option) {
  int value = 0;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : 0;
}

}  // namespace

PollSet::PollSet() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) throw_errno("watch a network card's connections");
}

void PollSet::watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = kOther;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) throw_errno("watch a network card's timer");
}

PollSet::Socket& PollSet::socket(int fd) {
  const auto index = static_cast<size_t>(fd);
  if (index >= sockets_.size()) sockets_.resize(index + 1);
  return sockets_[index];
}

void PollSet::set_kind(Socket& socket, Kind kind) {
  const auto is_session = [](Kind k) { return k != Kind::closed && k != Kind::permanent; };
  const auto is_stream = [](Kind k) { return k == Kind::unknown || k == Kind::stream; };
  if (is_session(socket.kind)) --sessions_;
  if (is_stream(socket.kind)) --streams_;
  if (is_session(kind)) ++sessions_;
  if (is_stream(kind)) ++streams_;
  socket.kind = kind;
}

void PollSet::opened(int fd) {
  if (fd < 0) return;
  Socket& s = socket(fd);
  if (s.kind == Kind::closed) set_kind(s, Kind::unknown);
}

void PollSet::closed(int fd) {
  if (fd < 0) return;
  Socket& s = socket(fd);
  set_kind(s, Kind::closed);
  s = Socket{};  // the kernel takes a closed descriptor out of the set by itself
}

void PollSet::begin_fill(bool permanent, bool accept) {
  ++round_;
  permanent_ = permanent;
  accept_ = accept;
  std::swap(list_, last_list_);
  list_.clear();
  fresh_.clear();
}

void PollSet::classify(int fd, Socket& s, uint32_t events) {
  if (permanent_ && s.kind == Kind::closed) {
    set_kind(s, Kind::permanent);
    s.listens = socket_option(fd, SO_TYPE) == SOCK_STREAM;
    fresh_.push_back(fd);
  } else if ((events & (EPOLLOUT | EPOLLPRI)) != 0) {  // libslirp wants no such thing of a datagram socket
    set_kind(s, Kind::stream);
  } else {
    set_kind(s, socket_option(fd, SO_TYPE) == SOCK_DGRAM ? Kind::datagram : Kind::stream);
  }
}

int PollSet::add(int fd, int events) {
  Socket& s = socket(fd);
  uint32_t wanted = to_epoll(events);
  if (s.kind == Kind::closed || s.kind == Kind::unknown) classify(fd, s, wanted);
  if (s.listens && !accept_) wanted = 0;
  s.wanted = wanted;
  s.round = round_;
  list_.push_back(fd);
  return static_cast<int>(list_.size() - 1);
}

void PollSet::end_fill() {
  // What is no longer wanted is taken out only once it happens: much of it is wanted again before that.
  for (const int fd : last_list_) {
    Socket& s = sockets_[static_cast<size_t>(fd)];
    if (s.round != round_) s.wanted = 0;
  }
  for (const int fd : list_) {
    Socket& s = sockets_[static_cast<size_t>(fd)];
    if ((s.wanted & ~s.watched) != 0) tell_kernel(fd, s);
  }
}

void PollSet::tell_kernel(int fd, Socket& s) {
  epoll_event event{};
  event.events = s.wanted;
  event.data.u64 = static_cast<uint32_t>(fd);
  const int what = s.watched == 0 ? EPOLL_CTL_ADD : s.wanted == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
  bool done = ::epoll_ctl(epoll_.get(), what, fd, &event) == 0;
  if (!done && errno == EEXIST) done = ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) == 0;
  s.watched = done ? s.wanted : 0;  // out of memory: it is tried again with the next fill
}

PollSet::Ready PollSet::look() {
  std::array<epoll_event, 64> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  Ready ready;
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    if (event.data.u64 == kOther) {
      ready.others = true;
      continue;
    }
    const auto fd = static_cast<int>(event.data.u64);
    Socket& s = sockets_[static_cast<size_t>(fd)];
    // Errors and hang-ups come unasked; libslirp finds them out by what it does when it gets one it asked
    // for.
    uint32_t happened = event.events;
    if ((happened & (EPOLLERR | EPOLLHUP)) != 0) happened |= EPOLLERR | EPOLLHUP;
    s.happened = happened & s.wanted;
    if (s.happened != 0) {
      happened_.push_back(fd);
      ready.sockets = true;
    } else {
      tell_kernel(fd, s);
    }
  }
  return ready;
}

int PollSet::happened(int place) const {
  const int fd = list_[static_cast<size_t>(place)];
  return to_slirp(sockets_[static_cast<size_t>(fd)].happened);
}

void PollSet::forget_happened() {
  for (const int fd : happened_) sockets_[static_cast<size_t>(fd)].happened = 0;
  happened_.clear();
}

bool PollSet::peek() const {
  pollfd poll{.fd = epoll_.get(), .events = POLLIN, .revents = 0};
  return ::poll(&poll, 1, 0) > 0;
}

}  // namespace minivmm::user_net
