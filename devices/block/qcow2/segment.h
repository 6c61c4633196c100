// The part of a write that is done as one: all in place, or all into clusters that are new or newly filled.
#pragma once

#include <cstdint>
#include <vector>

#include "devices/block/qcow2/refcounts.h"
#include "devices/block/qcow2/runtime.h"
#include "devices/block/qcow2/table_cache.h"

namespace minivmm::qcow2 {

struct Runtime::Segment {
  enum class Kind : uint8_t {
    in_place,      // the mapping stays
    keep_cluster,  // the host cluster stays; its (sub)clusters become data
    new_cluster,
  };
  Kind kind = Kind::in_place;
  uint64_t length = 0;  // bytes of the write
  uint64_t host = 0;    // where its first byte goes
  // Otherwise: the guest's bytes that the clusters must have afterwards, a range around the write.
  uint64_t begin = 0;
  uint64_t end = 0;
  HostRun clusters;  // new_cluster
  TablePtr table;    // has the entries; stays in memory until they are set
};

// One side of what is between a write and its clusters' bounds.
struct Fill {
  uint64_t guest = 0;
  uint64_t length = 0;
  bool zero = true;
  std::vector<std::byte> bytes;  // unless zero
};

}  // namespace minivmm::qcow2
