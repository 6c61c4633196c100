// What one commit writes, collected at one instant. docs/qcow2.md, "Commit".
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "devices/block/qcow2/runtime.h"

namespace minivmm::qcow2 {

struct CommitPlan {
  struct Write {
    uint64_t offset = 0;
    std::vector<std::byte> bytes;
  };
  struct Cleaned {
    TableCache* cache;
    TablePtr table;
    uint64_t from;
    uint64_t end;
  };

  // Of the first three phases.
  std::array<std::vector<Write>, 3> writes;
  bool names_refcounts = false;  // phase 2 writes the header
  Header header;                 // as it is to be in the end

  // To be marked as dirty again where the commit fails.
  std::vector<Cleaned> tables;
  Refcounts::Changes refcounts;
  uint64_t l1_from = 0;
  uint64_t l1_end = 0;
  bool l1_moved = false;

  std::deque<Freed> freed;
};

}  // namespace minivmm::qcow2
