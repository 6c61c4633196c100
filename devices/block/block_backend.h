// Where a virtual disk's bytes are: a raw file today, an image format or another I/O engine behind the same
// interface.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "vmm/core/error.h"
#include "vmm/core/queue_worker.h"

namespace minivmm {

inline constexpr uint64_t kSectorSize = 512;  // bytes; the unit of capacity, whatever the block size

enum class BlockOp : uint8_t {
  read,
  write,
  flush,         // everything completed before is on stable storage when this completes
  discard,       // the contents no longer matter; a hint
  write_zeroes,  // reads give zeroes afterwards
};

// All sizes in bytes; offset and length are multiples of kSectorSize, and the caller has checked that they
// lie within capacity().
struct BlockRequest {
  BlockOp op = BlockOp::read;
  uint64_t offset = 0;
  uint64_t length = 0;
  std::span<const iovec> data{};   // read, write: pieces that add up to length; valid until the completion
  bool may_unmap = false;          // write_zeroes: may free the space
  const StopFlag* stop = nullptr;  // once it says give_up(), end with Errc::closed, soon; may be null
};

// Called exactly once for each request, on any thread, perhaps before submit() returns; must not block.
// Errc::closed: given up; no byte of `data` is touched any more, and doing it all again does no harm.
// Errc::unsupported, Errc::no_space, Errc::io: it failed.
struct BlockCompletion {
  void (*done)(void* context, Result<void> result);
  void* context;
  void operator()(Result<void> result) const { done(context, result); }
};

struct BlockGeometry {
  uint32_t logical_block = 512;   // bytes, the smallest unit of a transfer
  uint32_t physical_block = 512;  // bytes, the smallest unit written without reading first
  uint32_t optimal_io = 0;        // bytes; 0: no preference
};

// Thread-safe: every queue of a device submits to it.
class BlockBackend {
 public:
  virtual ~BlockBackend() = default;      // with nothing in flight
  virtual uint64_t capacity() const = 0;  // bytes, a multiple of kSectorSize
  virtual bool read_only() const = 0;
  virtual BlockGeometry geometry() const = 0;
  virtual void submit(const BlockRequest&, BlockCompletion) = 0;
};

}  // namespace minivmm
