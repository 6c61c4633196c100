#include "devices/net/passt/passt_backend.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "devices/net/frame_pieces.h"
#include "devices/net/net_header.h"
#include "devices/net/scatter.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr std::chrono::milliseconds kFirstDelay{500};
constexpr std::chrono::milliseconds kLongestDelay{8000};

}  // namespace

PasstBackend::PasstBackend(Connect connect, Log& log)
    : connect_(std::move(connect)),
      log_(log),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      timer_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)),
      delay_(kFirstDelay) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  if (!epoll_ || !timer_ || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, timer_.get(), &event) != 0)
    throw_errno("watch the connection to passt");
  rest_.reserve(StreamFrames::kLength + kMaxFrame);
  use(connect_());
}

PasstBackend::~PasstBackend() = default;

void PasstBackend::use(UniqueFd fd) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0)
    throw_errno("watch the connection to passt");
  connection_ = std::move(fd);
  watches_room_ = false;
  in_.clear();
  rest_.clear();
  rest_done_ = 0;
}

void PasstBackend::disconnect(const char* why) {
  connection_.reset();
  log_.write(LogLevel::warn, fmt::format("passt: {}; the guest's link is down until it is there again", why));
  try_again_later();
  state_.set(false);
}

void PasstBackend::try_again_later() {
  const auto ms = std::exchange(delay_, std::min(delay_ * 2, kLongestDelay)).count();
  itimerspec spec{};
  spec.it_value.tv_sec = ms / 1000;
  spec.it_value.tv_nsec = ms % 1000 * 1'000'000;
  ::timerfd_settime(timer_.get(), 0, &spec, nullptr);
}

// True: it is there again.
bool PasstBackend::connect_again() {
  uint64_t expired = 0;
  if (::read(timer_.get(), &expired, sizeof expired) < 0) return false;  // not yet
  try {
    use(connect_());
  } catch (const HostError&) {
    try_again_later();
    return false;
  }
  log_.write(LogLevel::info, "passt: connected again");
  state_.set(true);
  return true;
}

void PasstBackend::watch_room(bool room) {
  if (watches_room_ == room) return;
  watches_room_ = room;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET | (room ? uint32_t{EPOLLOUT} : 0);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection_.get(), &event);
}

bool PasstBackend::ready() {
  pollfd look{connection_ ? connection_.get() : timer_.get(), POLLIN, 0};
  return ::poll(&look, 1, 0) > 0;
}

// True: there is more than there was.
Result<bool> PasstBackend::read_more() {
  const auto room = in_.room();
  for (;;) {
    const ssize_t got = ::recv(connection_.get(), room.data(), room.size(), MSG_DONTWAIT);
    if (got > 0) {
      in_.added(static_cast<size_t>(got));
      delay_ = kFirstDelay;  // it works
      return true;
    }
    if (got < 0 && errno == EAGAIN) return false;
    if (got < 0 && errno == EINTR) continue;
    disconnect("it has ended");
    return fail(Errc::closed, "passt has ended");
  }
}

Result<size_t> PasstBackend::receive(std::span<const iovec> pieces) {
  if (!connection_ && !connect_again()) return fail(Errc::closed, "there is no passt");
  flush();
  for (;;) {
    const auto frame = in_.next();
    if (!frame) {
      disconnect("it sent what is no frame");
      return fail(Errc::closed, "passt sent nonsense");
    }
    if (*frame) {
      const std::span<const std::byte> bytes = **frame;
      std::array<std::byte, kNetHeaderSize> header{};
      store_net_header({}, header);
      size_t done = copy_to_pieces(header, pieces);
      const size_t count = pieces_behind(pieces, kNetHeaderSize, pieces_);
      done += copy_to_pieces(bytes, std::span(pieces_).first(count));
      if (done != kNetHeaderSize + bytes.size()) return fail(Errc::too_large, "the frame does not fit");
      return done;
    }
    const auto more = read_more();
    if (!more) return std::unexpected(more.error());
    if (!*more) return 0;
  }
}

// True: the socket has room for another frame.
bool PasstBackend::send_rest() {
  while (rest_done_ < rest_.size()) {
    const ssize_t sent = ::send(connection_.get(), rest_.data() + rest_done_, rest_.size() - rest_done_,
                                MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      rest_done_ += static_cast<size_t>(sent);
    } else if (errno == EAGAIN) {
      watch_room(true);
      return false;
    } else if (errno != EINTR) {
      rest_.clear();  // that it has gone is what receive() finds out
      rest_done_ = 0;
    }
  }
  rest_.clear();
  rest_done_ = 0;
  return true;
}

void PasstBackend::flush() {
  if (connection_ && !rest_.empty() && send_rest()) watch_room(false);
}

Result<bool> PasstBackend::send(std::span<const iovec> pieces) {
  const size_t size = pieces_size(pieces);
  if (size < kNetHeaderSize + kEthernetHeader || size > kMaxFrame)
    return fail(Errc::invalid, "a frame of a length that makes no sense");
  if (!connection_) return fail(Errc::closed, "there is no passt");
  if (!send_rest()) return false;

  const size_t frame_size = size - kNetHeaderSize;
  std::array<std::byte, StreamFrames::kLength> length{};
  for (size_t i = 0; i < length.size(); ++i)
    length[i] = static_cast<std::byte>(frame_size >> (8 * (length.size() - 1 - i)) & 0xff);
  pieces_[0] = {length.data(), length.size()};
  const size_t count = pieces_behind(pieces, kNetHeaderSize, std::span(pieces_).subspan(1));
  const auto message_pieces = std::span(pieces_).first(count + 1);
  if (pieces_size(message_pieces) != length.size() + frame_size)
    return fail(Errc::invalid, "a frame of too many pieces");
  msghdr message{};
  message.msg_iov = message_pieces.data();
  message.msg_iovlen = message_pieces.size();
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(connection_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno == EAGAIN) {
    watch_room(true);
    return false;
  }
  if (sent < 0) return fail(Errc::closed, "passt has ended");
  if (static_cast<size_t>(sent) < length.size() + frame_size) {
    rest_.resize(length.size() + frame_size - static_cast<size_t>(sent));
    copy_from_pieces(message_pieces, static_cast<size_t>(sent), rest_);
    watch_room(true);
  } else {
    watch_room(false);
  }
  return true;
}

}  // namespace minivmm
