// One walk over an image's metadata, and what it found; check.h's parts share it.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "devices/block/qcow2/check.h"
#include "devices/block/qcow2/reference_map.h"

namespace minivmm::qcow2 {

struct L2Table {
  uint64_t offset = 0;
  uint64_t references = 0;    // by all L1 tables together
  uint64_t guest_offset = 0;  // of its first cluster, where it is in the active L1 table
  bool in_active = false;
  bool walked = false;
};

struct CheckWalk {
  CheckWalk(IoEngine& with, BlockFile& of, Header decoded)
      : engine(with), file(of), header(std::move(decoded)), file_bytes(of.size()) {
    clusters = file_bytes / header.cluster_size() + (file_bytes % header.cluster_size() != 0 ? 1 : 0);
  }

  IoEngine& engine;
  BlockFile& file;
  Header header;
  uint64_t file_bytes;
  uint64_t clusters = 0;  // of the file; the last may be there in part
  size_t max_messages = 0;
  std::function<void(uint64_t, uint64_t)> progress;

  ReferenceMap references;
  std::vector<uint64_t> l1;              // the active one's entries
  std::vector<Snapshot> snapshots;       // those whose L1 table can be walked
  std::vector<uint64_t> refcount_table;  // offsets of blocks that can be read; 0 for the others
  std::vector<L2Table> l2_tables;        // ascending by offset
  CheckResult result;
  uint64_t bad_entries = 0;    // corruptions that are neither counts nor COPIED flags
  uint64_t mendable = 0;       // of those, by rewriting an entry
  bool counts_low = false;     // a count is below the references, or a refcount structure is damaged
  bool counts_differ = false;  // also too high
  uint64_t wrong_copied = 0;

  void say(std::string message) {
    if (result.messages.size() < max_messages) {
      result.messages.push_back(std::move(message));
    } else {
      ++result.more_messages;
    }
  }
  template <class... Args>
  void corruption(fmt::format_string<Args...> format, Args&&... args) {
    ++result.corruptions;
    say(fmt::format(format, std::forward<Args>(args)...));
  }
};

// check_references.cpp: counts every reference; the new refcount structures of a rebuild replace the old
// ones, which are then left out.
enum class CountRefcounts : uint8_t { yes, no };
Task<Result<void>> walk_references(CheckWalk&, CountRefcounts);

// check_counts.cpp: against the counts in the image.
Task<Result<void>> compare_counts(CheckWalk&);
// Lowers the counts that are too high, in place.
Task<Result<void>> lower_counts(CheckWalk&);

// check_copied.cpp: COPIED flags of the active L1 and L2 tables against the counts in the image.
Task<Result<void>> check_copied_flags(CheckWalk&);

// refcount_rebuild.cpp: writes new refcount structures for what `found` (walked without the old ones) refers
// to, clear of those of `old`, and switches the header to them.
Task<Result<void>> write_new_refcounts(const CheckWalk& found, const CheckWalk& old);

// entry_repair.cpp: rewrites what judge_l1_entry and judge_l2_entry find wrong, and the COPIED flags. The
// image's counts are right already. How many entries lost their data.
Task<Result<uint64_t>> repair_entries(CheckWalk&);

}  // namespace minivmm::qcow2
