// Writes to a frame that lies in pieces, and the pieces behind its first bytes.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

namespace minivmm {

// Copies `bytes` to the beginning; how many found room.
inline size_t copy_to_pieces(std::span<const std::byte> bytes, std::span<const iovec> pieces) {
  size_t done = 0;
  for (const iovec& piece : pieces) {
    if (done == bytes.size()) break;
    if (piece.iov_len == 0) continue;  // it may be nowhere, and memcpy() takes no null pointer
    const size_t n = std::min(piece.iov_len, bytes.size() - done);
    std::memcpy(piece.iov_base, bytes.data() + done, n);
    done += n;
  }
  return done;
}

// What lies behind the first `skip` bytes, into `out`; how many pieces that is. Those past out.size() are
// left out.
inline size_t pieces_behind(std::span<const iovec> pieces, size_t skip, std::span<iovec> out) {
  size_t count = 0;
  for (const iovec& piece : pieces) {
    if (skip >= piece.iov_len) {
      skip -= piece.iov_len;
      continue;
    }
    if (count == out.size()) break;
    out[count++] = {static_cast<std::byte*>(piece.iov_base) + skip, piece.iov_len - skip};
    skip = 0;
  }
  return count;
}

}  // namespace minivmm
