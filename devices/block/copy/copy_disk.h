// Copies between disks: all of one (convert), what an overlay holds (commit), where two differ (rebase). All
// of them read what a disk shows, never a layer of it by itself, and say afterwards only that it was written:
// whoever calls closes the target.
#pragma once

#include <optional>

#include "devices/block/copy/sweep.h"
#include "devices/block/qcow2/format.h"

namespace minivmm {

namespace qcow2 {
class Image;
}

struct CompressTo {
  qcow2::Image* image = nullptr;  // the target itself; its header says the method
  int level = 0;                  // the method's own scale; 0: its default
};

struct CopyOptions {
  uint64_t unit = 4096;         // bytes: a run of zeroes that is shorter is written
  bool target_is_zero = false;  // it is new: what reads as zeroes need not be written
  std::optional<CompressTo> compress = std::nullopt;
  SweepOptions sweep = {};
};
// What `from` shows, as long as it and `to` are. `to` is at least as large.
Result<void> copy_disk(BlockBackend& from, BlockBackend& to, const CopyOptions& options);

// What the top layer of `overlay` holds itself goes into `base`, which is at least as large.
Result<void> copy_top_layer(BlockBackend& overlay, BlockBackend& base, const CopyOptions& options);

// Writes into `overlay` what it shows of the layers below where `base` (null: nothing, zeroes) would show
// something else in their place.
Result<void> copy_difference(BlockBackend& overlay, BlockBackend* base, const CopyOptions& options);

}  // namespace minivmm
