// Does a piece of work for every piece of a disk: several threads with an engine each, several pieces in
// flight on each of them.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <span>

#include "devices/block/copy/piece.h"

namespace minivmm {

struct SweepOptions {
  unsigned threads = 0;                          // 0: one a CPU, 16 at most
  unsigned lanes = 4;                            // pieces in flight on a thread
  const std::atomic<bool>* cancelled = nullptr;  // once true: ends with Errc::closed
  std::function<void(uint64_t done)> progress =
      {};  // bytes walked; called now and then on the caller's thread
};
// How many threads there will be.
unsigned sweep_threads(const SweepOptions&);

// `thread` is below sweep_threads(); `buffer` has the cutter's step in bytes, is aligned for O_DIRECT, and is
// the piece's alone until its task ends.
using PieceWork =
    std::function<Task<Result<void>>(IoEngine&, unsigned thread, const Piece&, std::span<std::byte> buffer)>;

// Blocks until all is done. The first error ends it; what is in flight then is finished. Pieces of kind skip
// are counted, and not worked on. Throws HostError: no threads, no memory for the buffers.
Result<void> sweep(PieceCutter& pieces, uint64_t step, const PieceWork& work, const SweepOptions& options);

}  // namespace minivmm
