// A little-endian field of an on-disk structure, as the host has it too (x86-64, arm64).
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

namespace minivmm {

// At byte `at`; the caller has checked that it lies within `from`.
template <class T>
T load(std::span<const std::byte> from, size_t at) {
  T v{};
  std::memcpy(&v, from.data() + at, sizeof v);
  return v;
}

}  // namespace minivmm
