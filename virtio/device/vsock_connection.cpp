#include "virtio/device/vsock_connection.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>

namespace minivmm {

using vsock::Header;
using vsock::Op;

namespace {

constexpr size_t kMaxPieces = 1024;  // IOV_MAX
constexpr std::string_view kConnect = "CONNECT ";
constexpr size_t kMaxGreeting = 32;  // the longest that makes sense has 19 bytes

bool again(int error) {
  return error == EAGAIN || error == EWOULDBLOCK;
}

// The first `limit` bytes of the pieces.
void clip(std::span<const iovec> pieces, size_t limit, std::vector<iovec>& out) {
  out.clear();
  for (const iovec& piece : pieces) {
    if (limit == 0 || out.size() == kMaxPieces) break;
    if (piece.iov_len == 0) continue;
    const size_t n = std::min(limit, piece.iov_len);
    out.push_back({piece.iov_base, n});
    limit -= n;
  }
}

}  // namespace

void VsockConnection::request(Ports ports) {
  ports_ = ports;
  state_ = State::requested;
  say_request_ = true;
}

void VsockConnection::accept(Ports ports) {
  ports_ = ports;
  state_ = State::open;
  say_response_ = true;
}

void VsockConnection::accepted() {
  state_ = State::open;
  const std::string answer = fmt::format("OK {}\n", ports_.host);
  // The first bytes on this socket: there is room for them, or nobody at the other end. What such a one has
  // left behind is for the guest all the same.
  const ssize_t n = ::send(fd_.get(), answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n != static_cast<ssize_t>(answer.size())) host_is_deaf();
}

VsockConnection::Greeting VsockConnection::read_greeting() {
  std::array<char, kMaxGreeting> bytes{};
  ssize_t n = ::recv(fd_.get(), bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
  if (n < 0 && again(errno)) return {Greeting::Kind::none_yet};
  const std::string_view seen(bytes.data(), static_cast<size_t>(std::max<ssize_t>(n, 0)));
  const size_t end = seen.find('\n');
  if (end == std::string_view::npos) {
    const bool may_come = n > 0 && seen.size() < kMaxGreeting && !hung_up_;
    return {may_come ? Greeting::Kind::none_yet : Greeting::Kind::nonsense};
  }
  n = ::recv(fd_.get(), bytes.data(), end + 1, MSG_DONTWAIT);
  if (n != static_cast<ssize_t>(end + 1) || !seen.starts_with(kConnect)) return {Greeting::Kind::nonsense};
  uint32_t port = 0;
  const auto [stop, error] = std::from_chars(bytes.data() + kConnect.size(), bytes.data() + end, port);
  if (error != std::errc{} || stop != bytes.data() + end || port == vsock::kAnyPort) {
    return {Greeting::Kind::nonsense};
  }
  return {Greeting::Kind::port, port};
}

void VsockConnection::on_events(uint32_t events) {
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) hung_up_ = true;
  // Its end was read before that, and is not read again.
  if (hung_up_ && ended_) shutdown_due_ |= vsock::kShutdownReceive;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) readable_ = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) flush();
}

uint32_t VsockConnection::credit_left() const {
  // 5.10.6.3; a guest that takes back what it has said has none.
  const uint32_t in_flight = sent_ - peer_fwd_cnt_;
  return in_flight >= peer_buf_alloc_ ? 0 : peer_buf_alloc_ - in_flight;
}

bool VsockConnection::has_packet() const {
  if (say_request_ || say_response_) return true;
  if (state_ != State::open) return false;
  if (say_credit_ || (shutdown_due_ & ~shutdown_said_) != 0) return true;
  return readable_ && !ended_ && (credit_left() != 0 || !credit_asked_);
}

std::optional<uint32_t> VsockConnection::next_packet(Header& header, std::span<const iovec> room) {
  if (!has_packet()) return std::nullopt;
  uint32_t length = 0;
  uint32_t flags = 0;
  Op op = Op::invalid;
  if (std::exchange(say_request_, false)) {
    op = Op::request;
  } else if (std::exchange(say_response_, false)) {
    op = Op::response;
  } else if (readable_ && !ended_ && credit_left() != 0 && (length = read_some(room, credit_left())) != 0) {
    op = Op::rw;
    sent_ += length;
  } else if (readable_ && !ended_ && credit_left() == 0 && !std::exchange(credit_asked_, true)) {
    op = Op::credit_request;
  } else if ((shutdown_due_ & ~shutdown_said_) != 0) {
    op = Op::shutdown;
    flags = shutdown_said_ |= shutdown_due_;
  } else if (say_credit_) {
    op = Op::credit_update;
  } else {
    return std::nullopt;
  }
  header.src_port = ports_.host;
  header.dst_port = ports_.guest;
  header.len = length;
  header.op = static_cast<uint16_t>(op);
  header.flags = flags;
  header.buf_alloc = kBufAlloc;
  header.fwd_cnt = told_ = passed_on_;
  say_credit_ = false;
  return length;
}

// 0: nothing now, or nothing ever again.
uint32_t VsockConnection::read_some(std::span<const iovec> room, uint32_t limit) {
  clip(room, limit, pieces_);
  if (pieces_.empty()) return 0;
  msghdr message{};
  message.msg_iov = pieces_.data();
  message.msg_iovlen = pieces_.size();
  const ssize_t n = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT);
  if (n > 0) return static_cast<uint32_t>(n);
  readable_ = false;
  if (n < 0 && again(errno)) return 0;
  ended_ = true;
  shutdown_due_ |= vsock::kShutdownSend;
  if (n < 0 || hung_up_) shutdown_due_ |= vsock::kShutdownReceive;
  return 0;
}

void VsockConnection::credit(const Header& header) {
  peer_buf_alloc_ = header.buf_alloc;
  peer_fwd_cnt_ = header.fwd_cnt;
  if (credit_left() != 0) credit_asked_ = false;
}

bool VsockConnection::receive(std::span<const iovec> data) {
  size_t length = 0;
  for (const iovec& piece : data) length += piece.iov_len;
  if ((guest_shut_ & vsock::kShutdownSend) != 0) return false;
  if (length > kBufAlloc - (received_ - passed_on_)) return false;
  received_ += static_cast<uint32_t>(length);
  size_t taken = 0;
  if (backlog_.empty() && !deaf_ && length != 0) {
    clip(data, length, pieces_);
    msghdr message{};
    message.msg_iov = pieces_.data();
    message.msg_iovlen = pieces_.size();
    const ssize_t n = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && !again(errno)) host_is_deaf();
    taken = static_cast<size_t>(std::max<ssize_t>(n, 0));
  }
  passed_on(deaf_ ? length : taken);
  if (!deaf_) keep(data, taken);
  return true;
}

// All but the first `skip` bytes, until the socket takes more. What has been done goes first, or a reader
// that never catches up would have all it ever read kept. Beside it there are kBufAlloc bytes at most.
void VsockConnection::keep(std::span<const iovec> data, size_t skip) {
  if (backlog_done_ >= kBufAlloc) {
    backlog_.erase(backlog_.begin(), backlog_.begin() + static_cast<ptrdiff_t>(backlog_done_));
    backlog_done_ = 0;
  }
  size_t needed = backlog_.size();
  for (const iovec& piece : data) needed += piece.iov_len;
  needed -= skip;
  if (needed > backlog_.capacity()) {  // a vector left to itself may double past the bound
    backlog_.reserve(std::max(needed, std::min<size_t>(2 * backlog_.capacity(), kMostKept)));
  }
  for (const iovec& piece : data) {
    const size_t skipped = std::min(skip, piece.iov_len);
    skip -= skipped;
    const auto* bytes = static_cast<const std::byte*>(piece.iov_base);
    backlog_.insert(backlog_.end(), bytes + skipped, bytes + piece.iov_len);
  }
}

void VsockConnection::flush() {
  while (!backlog_.empty() && !deaf_) {
    const ssize_t n = ::send(fd_.get(), backlog_.data() + backlog_done_, backlog_.size() - backlog_done_,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && again(errno)) return;
    if (n <= 0) {
      host_is_deaf();
      return;
    }
    backlog_done_ += static_cast<size_t>(n);
    passed_on(static_cast<size_t>(n));
    if (backlog_done_ == backlog_.size()) {
      backlog_ = {};  // its memory, too: most connections never need any
      backlog_done_ = 0;
      if ((guest_shut_ & vsock::kShutdownSend) != 0) ::shutdown(fd_.get(), SHUT_WR);
    }
  }
}

void VsockConnection::passed_on(size_t bytes) {
  passed_on_ += static_cast<uint32_t>(bytes);
  // The guest thinks that half of its credit is gone.
  if (received_ - told_ > kBufAlloc / 2 && passed_on_ != told_) say_credit_ = true;
}

void VsockConnection::host_is_deaf() {
  deaf_ = true;
  passed_on(backlog_.size() - backlog_done_);
  backlog_ = {};
  backlog_done_ = 0;
  shutdown_due_ |= vsock::kShutdownReceive;
}

void VsockConnection::shut_down(uint32_t flags) {
  guest_shut_ |= flags & vsock::kShutdownBoth;
  if ((flags & vsock::kShutdownReceive) != 0) {
    ::shutdown(fd_.get(), SHUT_RD);
    ended_ = true;
  }
  if ((flags & vsock::kShutdownSend) != 0 && backlog_.empty()) ::shutdown(fd_.get(), SHUT_WR);
}

bool VsockConnection::drain() {
  state_ = State::draining;
  guest_shut_ = vsock::kShutdownBoth;
  say_request_ = say_response_ = false;
  return !backlog_.empty();
}

}  // namespace minivmm
