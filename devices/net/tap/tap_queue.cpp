#include "devices/net/tap/tap_queue.h"

#include <poll.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "devices/net/frame_pieces.h"

namespace minivmm {

namespace {

// Linux's answers: EBADFD from a tap that was deleted, EIO from one that is down.
Error lost(int error, LinkState& link) {
  if (error == EBADFD || error == ENODEV) {
    link.set(false);
    return {Errc::closed, "the tap device was deleted"};
  }
  if (error == EIO) return {Errc::closed, "the tap device is down"};
  if (error == EINVAL) return {Errc::invalid, "the tap device refuses the frame"};
  return {Errc::io, "the tap device's I/O failed"};
}

}  // namespace

Result<size_t> TapQueue::receive(std::span<const iovec> pieces) {
  // The kernel cuts off what does not fit and does not say so: one byte more than the guest has tells.
  std::byte spare;
  const size_t count = std::min(pieces.size(), kMaxPieces - 1);
  std::copy_n(pieces.begin(), count, pieces_.begin());
  pieces_[count] = {&spare, 1};
  for (;;) {
    const ssize_t got = ::readv(fd_.get(), pieces_.data(), static_cast<int>(count + 1));
    if (got >= 0) {
      const auto size = static_cast<size_t>(got);
      if (size > pieces_size(pieces.first(count))) return fail(Errc::too_large, "the frame does not fit");
      return size;
    }
    if (errno == EAGAIN) return 0;
    if (errno != EINTR) return std::unexpected(lost(errno, link_));
  }
}

Result<bool> TapQueue::send(std::span<const iovec> pieces) {
  if (pieces.size() > kMaxPieces) return fail(Errc::invalid, "a frame of too many pieces");
  while (::writev(fd_.get(), pieces.data(), static_cast<int>(pieces.size())) < 0) {
    if (errno == EAGAIN) return true;
    if (errno != EINTR) return std::unexpected(lost(errno, link_));
  }
  return true;
}

bool TapQueue::ready() {
  pollfd look{fd_.get(), POLLIN, 0};
  return ::poll(&look, 1, 0) > 0 && (look.revents & POLLIN) != 0;
}

}  // namespace minivmm
