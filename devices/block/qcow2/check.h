// An image's consistency: every reference counted by itself, and compared with the counts that the image
// keeps. Offline: nobody else has the image open for writing.
//
// Repair never leaves a cluster with a count below its references, whenever it is interrupted: new refcount
// structures are written beside the old ones, and the header is switched to them; then entries are mended.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "devices/block/block_file.h"
#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

enum class Repair : uint8_t {
  none,
  leaks,  // counts that are too high, if nothing else is wrong
  all,    // what can be: entries that refer to nothing that exists become zeroes
};

struct CheckOptions {
  Repair repair = Repair::none;
  size_t max_messages = 100;
  // Of the walk over the L2 tables; called now and then.
  std::function<void(uint64_t done, uint64_t total)> progress;
};

// What remains, after repair if there was one. Counted as qemu-img check does.
struct CheckResult {
  uint64_t corruptions = 0;
  uint64_t leaks = 0;  // clusters
  uint64_t corruptions_fixed = 0;
  uint64_t leaks_fixed = 0;
  uint64_t lost = 0;  // entries whose data repair gave up
  // Of the active state: guest clusters.
  uint64_t total_clusters = 0;
  uint64_t allocated_clusters = 0;  // with the compressed ones
  uint64_t compressed_clusters = 0;
  uint64_t fragmented_clusters = 0;
  uint64_t image_end = 0;  // bytes: behind the last cluster that is used or counted
  bool dirty = false;      // the header's marks
  bool marked_corrupt = false;
  std::vector<std::string> messages;  // of the first walk: what was found
  uint64_t more_messages = 0;         // beyond max_messages
};

// `why` receives a line for a person where the check itself fails: Errc::io, Errc::corrupt or
// Errc::unsupported (a header that cannot be understood), Errc::too_large, Errc::no_space.
Task<Result<CheckResult>> check_image(IoEngine&, BlockFile&, const CheckOptions&, std::string& why);

// For opening a dirty image for writing: its counts and COPIED flags become what its references say, and the
// dirty bit is cleared, also in `header` (which gets the new refcount table). Errc::corrupt where more is
// wrong than counts and flags.
Task<Result<void>> rebuild_refcounts(IoEngine&, BlockFile&, Header& header);

}  // namespace minivmm::qcow2
