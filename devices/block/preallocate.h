// Space for a new disk, before anybody writes to it.
#pragma once

#include <cstdint>
#include <functional>

#include "devices/block/block_file.h"

namespace minivmm {

enum class Preallocation : uint8_t {
  off,
  metadata,  // every cluster of an image has its place in the file, which has holes there
  falloc,    // and space reserved by the file system
  full,      // and zeroes written there
};

// Makes `length` bytes from `offset` on part of the file, as `how` says; they read as zeroes (for off and
// metadata on a block device: whatever was there). `progress`, which may be null, is called now and then.
// Errc::io, Errc::no_space, Errc::too_large.
Task<Result<void>> preallocate(IoEngine&, BlockFile&, uint64_t offset, uint64_t length, Preallocation how,
                               const std::function<void(uint64_t done, uint64_t total)>& progress);

}  // namespace minivmm
