// What is wrong with a single L1 or L2 entry, what it refers to, and what it becomes by repair.
#pragma once

#include <cstdint>

#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

struct EntryVerdict {
  const char* problem = nullptr;  // null: it is as it should be
  uint64_t offset = 0;            // what it refers to in the file, in bytes; nothing where `bytes` is 0
  uint64_t bytes = 0;
  bool allocated = false;   // a standard cluster with a host cluster of its own: COPIED has a meaning
  bool compressed = false;  // allocated, compressed
  // By repair; COPIED is left to whoever knows the count.
  uint64_t entry = 0;
  uint64_t bitmap = 0;  // extended L2 entries
  bool loses_data = false;
};

// "L1 table entry".
EntryVerdict judge_l1_entry(const Header&, uint64_t file_bytes, uint64_t entry);

// "L2 table entry", "Extended L2 Entries". `guest_offset` is that of the entry's cluster, in bytes.
EntryVerdict judge_l2_entry(const Header&, uint64_t file_bytes, uint64_t entry, uint64_t bitmap,
                            uint64_t guest_offset);

}  // namespace minivmm::qcow2
