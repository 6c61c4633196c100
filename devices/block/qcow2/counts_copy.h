// A part of a refcount block as a commit is to write it, which is not quite as it is in memory.
#pragma once

#include <cstdint>

#include "devices/block/block_script.h"
#include "devices/block/qcow2/format.h"
#include "devices/block/qcow2/table_cache.h"

namespace minivmm::qcow2 {

struct CountsCopy {
  TablePtr block;
  BlockScript::Write* write = nullptr;

  // Counts are by their number in the block.
  uint64_t first(unsigned order) const { return ((write->offset - block->offset) * 8) >> order; }
  bool holds(uint64_t index, unsigned order) const {
    return index >= first(order) && index - first(order) < (write->bytes.size() * 8) >> order;
  }
  uint64_t load(uint64_t index, unsigned order) const {
    return load_refcount(write->bytes, order, index - first(order));
  }
  void store(uint64_t index, unsigned order, uint64_t count) const {
    store_refcount(write->bytes, order, index - first(order), count);
  }
};

// The 4 KiB units of the table that bytes [from, end) lie in.
BlockScript::Write part_of(const Table& table, uint64_t from, uint64_t end);

}  // namespace minivmm::qcow2
