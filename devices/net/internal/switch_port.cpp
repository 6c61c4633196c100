#include "devices/net/internal/switch_port.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr uint64_t kListener = ~uint64_t{0};
constexpr uint64_t kTimer = kListener - 1;

// What a peer that does not read can hold of the kernel's memory for us. Without CAP_NET_ADMIN the kernel
// gives net.core.wmem_max at most, which is room for a few frames of 64 KiB.
constexpr int kSendBuffer = 1 << 20;

constexpr unsigned kFramesInTurn = 32;

void make_roomy(int fd) {
  const int size = kSendBuffer;
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) != 0)
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

bool add_watch(int epoll, int fd, uint64_t tag) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = tag;
  return ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

}  // namespace

SwitchPort::SwitchPort(const std::filesystem::path& folder, std::string_view name)
    : membership_(folder, name),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      timer_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) {
  if (!epoll_ || !timer_ || !add_watch(epoll_.get(), membership_.listener(), kListener) ||
      !add_watch(epoll_.get(), timer_.get(), kTimer)) {
    throw_errno("watch the private network's sockets");
  }
  peers_.reserve(kMaxMembers);
  for (UniqueFd& fd : membership_.take_peers()) add_peer(std::move(fd));
}

SwitchPort::~SwitchPort() = default;

void SwitchPort::add_peer(UniqueFd fd) {
  make_roomy(fd.get());
  auto peer = std::make_unique<Peer>(Peer{.id = ++last_id_, .fd = std::move(fd)});
  if (add_watch(epoll_.get(), peer->fd.get(), peer->id)) peers_.push_back(std::move(peer));
}

void SwitchPort::remove_peer(uint32_t id) {
  table_.forget(id);
  std::erase_if(peers_, [id](const auto& peer) { return peer->id == id; });
}

Peer* SwitchPort::find_peer(uint64_t id) {
  const auto found = std::ranges::find_if(peers_, [id](const auto& peer) { return peer->id == id; });
  return found == peers_.end() ? nullptr : found->get();
}

// Whose turn it is; then the others in order, so that none is kept out by one that never stops.
Peer* SwitchPort::next_readable() {
  for (size_t i = 0; i < peers_.size(); ++i) {
    if (turn_ >= peers_.size()) turn_ = 0;
    Peer& peer = *peers_[turn_];
    if (peer.readable && in_turn_ < kFramesInTurn) return &peer;
    ++turn_;
    in_turn_ = 0;
  }
  // All the way round: the one that had its turn may be the only one.
  if (turn_ >= peers_.size()) turn_ = 0;
  return !peers_.empty() && peers_[turn_]->readable ? peers_[turn_].get() : nullptr;
}

// What has happened since the last look. True: some peer may have something.
bool SwitchPort::look() {
  std::array<epoll_event, 16> events{};
  bool found = false;
  for (;;) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<size_t>(i)];
      if (event.data.u64 == kListener) {
        const size_t before = peers_.size();
        accept_peers();
        found |= peers_.size() > before;
      } else if (event.data.u64 == kTimer) {
        set_timer(std::nullopt);
        tell_sender();
      } else if (Peer* peer = find_peer(event.data.u64)) {
        if ((event.events & EPOLLOUT) != 0) {
          watch(*peer, false);
          tell_sender();
        }
        if ((event.events & ~uint32_t{EPOLLOUT}) != 0) {
          peer->readable = true;
          found = true;
        }
      }
    }
    if (count < static_cast<int>(events.size())) return found;
  }
}

void SwitchPort::accept_peers() {
  for (;;) {
    UniqueFd fd(::accept4(membership_.listener(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      return;
    }
    ucred who{};
    socklen_t size = sizeof who;
    const bool known = ::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &who, &size) == 0;
    if (!known || (who.uid != ::geteuid() && who.uid != 0) || peers_.size() + 1 >= kMaxMembers) continue;
    add_peer(std::move(fd));
  }
}

void SwitchPort::watch(Peer& peer, bool room) {
  if (peer.watches_room == room) return;
  peer.watches_room = room;
  epoll_event event{};
  // Room is asked for only while it is missed: otherwise each frame that a peer reads would wake us.
  event.events = EPOLLIN | EPOLLET | (room ? uint32_t{EPOLLOUT} : 0);
  event.data.u64 = peer.id;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, peer.fd.get(), &event);
}

// To look is to consume: what was meant for send() is said once more, or a worker that looks before it sleeps
// would miss it.
void SwitchPort::tell_sender() {
  if (std::exchange(told_, true)) return;
  set_timer(Patience::Clock::now());
}

void SwitchPort::set_timer(std::optional<Patience::Clock::time_point> when) {
  if (!when && !timer_armed_) return;
  itimerspec spec{};
  if (when) {
    const auto ns = std::chrono::nanoseconds(when->time_since_epoch()).count();
    spec.it_value.tv_sec = ns / 1'000'000'000;
    spec.it_value.tv_nsec = ns % 1'000'000'000;
  }
  timer_armed_ = when.has_value();
  ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);  // steady_clock is CLOCK_MONOTONIC
}

bool SwitchPort::ready() {
  if (segmenter_.active() || std::ranges::any_of(peers_, &Peer::readable)) return true;
  pollfd look{epoll_.get(), POLLIN, 0};
  return ::poll(&look, 1, 0) > 0;
}

}  // namespace minivmm
