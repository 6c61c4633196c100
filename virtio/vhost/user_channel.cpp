#include "virtio/vhost/user_channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace minivmm::vhost_user {

namespace {

std::unexpected<Error> gone() {
  return fail(Errc::closed, "the vhost-user back end has gone");
}

}  // namespace

// False: nothing by the deadline.
bool Channel::wait_for(short events, Deadline deadline) const {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Deadline::clock::now()).count();
    pollfd look{socket_.get(), events, 0};
    const int ready = ::poll(&look, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

Result<void> Channel::send(Request request, std::span<const std::byte> payload,
                           std::span<const int> descriptors, Deadline deadline, bool need_reply) {
  MV_CHECK(descriptors.size() <= kMaxRegions);
  Header header{static_cast<uint32_t>(request), kVersion | (need_reply ? kFlagNeedReply : 0),
                static_cast<uint32_t>(payload.size())};
  std::array<iovec, 2> pieces{
      {{&header, sizeof header}, {const_cast<std::byte*>(payload.data()), payload.size()}}};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxRegions)> control{};
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = pieces.size();
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* const head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(head), descriptors.data(), descriptors.size_bytes());
  }
  size_t left = sizeof header + payload.size();
  for (;;) {
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN || !wait_for(POLLOUT, deadline)) return gone();
      continue;
    }
    left -= static_cast<size_t>(sent);
    if (left == 0) return {};
    // The descriptors went with the first byte.
    message.msg_control = nullptr;
    message.msg_controllen = 0;
    auto skip = static_cast<size_t>(sent);
    for (iovec& piece : pieces) {
      const size_t n = std::min(skip, piece.iov_len);
      piece.iov_base = static_cast<std::byte*>(piece.iov_base) + n;
      piece.iov_len -= n;
      skip -= n;
    }
  }
}

Result<void> Channel::read_exactly(std::span<std::byte> out, Deadline deadline) {
  while (!out.empty()) {
    // Without room for control messages, descriptors that come along are closed by the kernel.
    const ssize_t got = ::recv(socket_.get(), out.data(), out.size(), MSG_DONTWAIT);
    if (got > 0) {
      out = out.subspan(static_cast<size_t>(got));
      continue;
    }
    if (got == 0) return gone();
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return gone();
    if (!wait_for(POLLIN, deadline)) return fail(Errc::closed, "the vhost-user back end does not answer");
  }
  return {};
}

Result<size_t> Channel::receive(Request request, std::span<std::byte> payload, Deadline deadline,
                                bool may_refuse) {
  Header header{};
  if (auto read = read_exactly(std::as_writable_bytes(std::span(&header, 1)), deadline); !read)
    return std::unexpected(read.error());
  if (may_refuse && header.size == 0) payload = {};
  if (header.request != static_cast<uint32_t>(request) || (header.flags & kVersionMask) != kVersion ||
      (header.flags & kFlagReply) == 0 || header.size != payload.size()) {
    return fail(Errc::corrupt, "the vhost-user back end answers what was not asked");
  }
  if (auto read = read_exactly(payload, deadline); !read) return std::unexpected(read.error());
  return payload.size();
}

void Channel::shut_down() {
  ::shutdown(socket_.get(), SHUT_RDWR);
}

}  // namespace minivmm::vhost_user
