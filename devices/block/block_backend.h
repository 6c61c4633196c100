// Where a virtual disk's bytes are: an image format over a host file, another back end below it, a server.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "devices/block/io_engine.h"
#include "devices/block/task.h"
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

struct BlockGeometry {
  uint32_t logical_block = 512;   // bytes, the smallest unit of a transfer
  uint32_t physical_block = 512;  // bytes, the smallest unit written without reading first
  uint32_t optimal_io = 0;        // bytes; 0: no preference
};

// A run of bytes that are all in one state.
struct BlockExtent {
  enum class State : uint8_t {
    unallocated,  // in no layer: reads as zeroes
    zero,         // said to be zeroes; may have space reserved
    data,         // stored
    compressed,   // stored, compressed
  };
  uint64_t length = 0;  // bytes, at least 1 sector
  State state = State::data;
  unsigned depth = 0;  // the layer it comes from: 0 is the image itself, 1 its backing file, ...
  bool has_host_offset = false;
  uint64_t host_offset = 0;  // data: in that layer's file
};

// Thread-safe: every queue submits with its own engine, and all of a request's work and its completion happen
// on that engine's thread.
class BlockBackend {
 public:
  using Completion = std::function<void(Result<void>)>;

  virtual ~BlockBackend() = default;      // with nothing in flight, close()d if it was written to
  virtual uint64_t capacity() const = 0;  // bytes, a multiple of kSectorSize; changes with resize()
  virtual bool read_only() const = 0;
  virtual BlockGeometry geometry() const = 0;
  virtual std::string_view format() const = 0;  // "raw", "qcow2", ...

  // Errc::closed: given up; no byte of `data` is touched any more, and doing it all again does no harm.
  // Errc::unsupported, Errc::no_space, Errc::io, Errc::corrupt: it failed; a repeated request does no harm
  // either.
  virtual Task<Result<void>> run(IoEngine&, BlockRequest) = 0;
  // A read that needs no wait, and so no task: true if `data` has all of it now. False: `data` may hold
  // anything, and run() is the way. Any thread.
  virtual bool read_now(uint64_t /*offset*/, uint64_t /*length*/, std::span<const iovec> /*data*/) {
    return false;
  }
  // The state of the bytes from `offset`, at most `length` of them.
  virtual Task<Result<BlockExtent>> extent(IoEngine&, uint64_t offset, uint64_t length) = 0;
  // Changes the capacity. Not below what requests in flight use. Errc::unsupported, Errc::no_space, Errc::io.
  virtual Task<Result<void>> resize(IoEngine&, uint64_t capacity_bytes) = 0;
  // Takes over a size that the storage has got by other hands: larger only. Nothing to do for what has no
  // such size.
  virtual Task<Result<void>> refresh(IoEngine& /*engine*/) { co_return Result<void>{}; }
  // Brings everything to stable storage and marks the image as cleanly closed; nothing is submitted
  // afterwards.
  virtual Task<Result<void>> close(IoEngine&) = 0;

  // run() without a coroutine around it: `done` is called once, on the engine's thread, perhaps before this
  // returns.
  void submit(IoEngine& engine, const BlockRequest& request, Completion done) {
    spawn(run(engine, request), std::move(done));
  }
};

}  // namespace minivmm
