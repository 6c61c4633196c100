#include "devices/block/qcow2/pieces.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kZeroBytes = 65536;
// Only ever read from; iovec has no const, and writable pages that nobody writes cost no memory.
alignas(4096) std::array<std::byte, kZeroBytes> zeroes;

}  // namespace

Pieces slice(std::span<const iovec> all, uint64_t offset, uint64_t length) {
  Pieces part;
  for (const iovec& one : all) {
    if (length == 0) break;
    if (offset >= one.iov_len) {
      offset -= one.iov_len;
      continue;
    }
    const uint64_t here = std::min<uint64_t>(one.iov_len - offset, length);
    part.push_back({static_cast<std::byte*>(one.iov_base) + offset, here});
    offset = 0;
    length -= here;
  }
  return part;
}

void append(Pieces& to, const Pieces& more) {
  to.insert(to.end(), more.begin(), more.end());
}

void fill_zero(std::span<const iovec> pieces) {
  for (const iovec& one : pieces) std::memset(one.iov_base, 0, one.iov_len);
}

void copy_to(std::span<const iovec> pieces, std::span<const std::byte> bytes) {
  for (const iovec& one : pieces) {
    std::memcpy(one.iov_base, bytes.data(), one.iov_len);
    bytes = bytes.subspan(one.iov_len);
  }
}

void append_zeroes(Pieces& to, uint64_t length) {
  while (length > 0) {
    const uint64_t here = std::min(length, kZeroBytes);
    to.push_back({zeroes.data(), here});
    length -= here;
  }
}

}  // namespace minivmm::qcow2
