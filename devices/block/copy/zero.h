// Whether bytes are all zero: what decides how much of a disk is copied, so as fast as memory can be read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace minivmm {

inline bool is_zero(std::span<const std::byte> bytes) {
  // 128 bytes a round in eight vector registers; a first word that is not zero ends it at once, which is how
  // most data does.
  using Vector = uint64_t __attribute__((vector_size(16)));
  constexpr size_t kRound = 8 * sizeof(Vector);
  const std::byte* at = bytes.data();
  size_t left = bytes.size();
  for (; left >= kRound; left -= kRound, at += kRound) {
    Vector v[8];
    std::memcpy(v, at, kRound);
    const Vector any = (v[0] | v[1] | v[2] | v[3]) | (v[4] | v[5] | v[6] | v[7]);
    if ((any[0] | any[1]) != 0) return false;
  }
  std::byte rest{};
  for (; left > 0; --left, ++at) rest |= *at;
  return rest == std::byte{};
}

}  // namespace minivmm
