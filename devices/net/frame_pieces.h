// Looks at a frame that lies in pieces. Guest memory may change meanwhile: what is decided on is copied
// first.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

namespace minivmm {

inline size_t pieces_size(std::span<const iovec> pieces) {
  size_t size = 0;
  for (const iovec& piece : pieces) size += piece.iov_len;
  return size;
}

// Copies from `offset` on into `out`; how many bytes there were.
inline size_t copy_from_pieces(std::span<const iovec> pieces, size_t offset, std::span<std::byte> out) {
  size_t done = 0;
  for (const iovec& piece : pieces) {
    if (done == out.size()) break;
    if (offset >= piece.iov_len) {
      offset -= piece.iov_len;
      continue;
    }
    const size_t n = std::min(piece.iov_len - offset, out.size() - done);
    std::memcpy(out.data() + done, static_cast<const std::byte*>(piece.iov_base) + offset, n);
    done += n;
    offset = 0;
  }
  return done;
}

}  // namespace minivmm
