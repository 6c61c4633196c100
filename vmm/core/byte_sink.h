// Where bytes of a disk can be written by the VMM itself, before the guest runs or between two of its boots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmm/core/error.h"

namespace minivmm {

class ByteSink {
 public:
  ByteSink() = default;
  ByteSink(const ByteSink&) = delete;
  ByteSink& operator=(const ByteSink&) = delete;
  virtual ~ByteSink() = default;

  // All of `bytes`, at `offset`; offset and length are whole sectors of 512 bytes. Waits for it.
  virtual Result<void> write(uint64_t offset, std::span<const std::byte> bytes) = 0;
  // What was written before is on stable storage when this returns.
  virtual Result<void> flush() = 0;
};

}  // namespace minivmm
