// The frames of a byte stream, as passt and QEMU's "stream" network have it: each after its length, 4 bytes,
// big-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/core/error.h"

namespace minivmm {

// Cuts what was read into frames.
class StreamFrames {
 public:
  static constexpr size_t kLength = 4;

  StreamFrames();

  // Where the next bytes are read to; at least one frame's worth. They are counted by added().
  std::span<std::byte> room();
  void added(size_t size) { end_ += size; }

  // The next whole frame, valid until room() is called; nullopt: it is not there yet. Errc::invalid: a length
  // that no frame has, and nothing after it can be found.
  Result<std::optional<std::span<const std::byte>>> next();
  void clear() { begin_ = end_ = 0; }

 private:
  std::vector<std::byte> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace minivmm
