// Scattered buffers (iovec lists) of a request: parts of them, zeroes and copies into them.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <vector>

namespace minivmm::qcow2 {

using Pieces = std::vector<iovec>;

// The pieces of bytes [offset, offset + length) of `all`.
Pieces slice(std::span<const iovec> all, uint64_t offset, uint64_t length);
void append(Pieces& to, const Pieces& more);
void fill_zero(std::span<const iovec> pieces);
// Bytes for all of `pieces`.
void copy_to(std::span<const iovec> pieces, std::span<const std::byte> bytes);
// `length` zero bytes to be written from: pieces of one small constant buffer.
void append_zeroes(Pieces& to, uint64_t length);
inline iovec piece(std::byte* data, uint64_t length) {
  return {data, length};
}

}  // namespace minivmm::qcow2
