// Which host clusters are in use, and by how many: the refcount table and its blocks, and the allocation of
// clusters from them. Nothing in here locks or does I/O: Runtime holds its mutex for every call.
#pragma once

#include <cstdint>
#include <vector>

#include "devices/block/qcow2/attempt.h"
#include "devices/block/qcow2/mapping.h"
#include "devices/block/qcow2/metadata_set.h"

namespace minivmm::qcow2 {

// Host clusters [first, first + count).
struct HostRun {
  uint64_t first = 0;
  uint64_t count = 0;
  bool fresh = false;  // never used since the file grew over them: they read as zeroes
};

class Refcounts {
 public:
  struct Start {
    std::vector<uint64_t> table;  // its entries, whole clusters of them
    uint64_t table_offset = 0;
    uint64_t file_clusters = 0;  // clusters that the file had, the last one perhaps in part
    uint64_t most_clusters = 0;  // no cluster from here on can be had
    bool fresh_end = true;       // what lies past the file's end reads as zeroes
    uint64_t cache_bytes = 0;
  };
  Refcounts(const Layout& layout, MetadataSet& metadata, Start start);

  // 1 to `wanted` contiguous clusters, counted 1 from now on. Errc::no_space, Errc::corrupt.
  Attempt<HostRun> allocate(uint64_t wanted);
  // Exactly so many contiguous ones, at the end of what is in use.
  Attempt<HostRun> allocate_together(uint64_t count);
  Attempt<uint64_t> count_of(uint64_t cluster);
  // One reference more; Errc::too_large where the count's width does not allow it.
  Attempt<void> raise(uint64_t cluster);
  // One reference less. Errc::corrupt: it had none.
  enum class Lowered : uint8_t {
    in_memory,   // the block becomes dirty
    in_file_too  // the file has the new count already
  };
  Attempt<void> lower(uint64_t cluster, Lowered lowered = Lowered::in_memory);

  uint64_t used_end() const { return used_end_; }  // no cluster from here on was ever in use
  uint64_t max_count() const { return max_count_; }
  TableCache& blocks() { return blocks_; }
  uint64_t per_block() const { return (layout_.cluster_size() * 8) >> layout_.refcount_order; }
  // The block that counts clusters [index, index + 1) * per_block(). Errc::corrupt: there is none.
  Attempt<TablePtr> block_at(uint64_t index);
  const std::vector<uint64_t>& table() const { return table_; }
  uint64_t table_offset() const { return table_offset_; }
  uint64_t table_clusters() const { return table_.size() * 8 >> layout_.cluster_bits; }

  // For the commit: entries [first, end) of the table are newer than the file's; `moved`: the table's place
  // too.
  struct Changes {
    bool moved = false;
    uint64_t first = 0;
    uint64_t end = 0;
    std::vector<HostRun> old_tables;  // free once the header names the new one
    bool any() const { return moved || first < end; }
  };
  bool any_dirty() const { return changes_.any() || blocks_.dirty_tables() > 0; }
  const Changes& changes() const { return changes_; }
  Changes take_changes();
  // The commit failed; `named`: after it had begun to write the header that names the new place.
  void restore(const Changes& changes, bool named);

 private:
  Attempt<Table*> block(uint64_t index);
  TablePtr add_block(uint64_t index, uint64_t cluster);
  uint64_t count_in(const Table& block, uint64_t cluster) const;
  void set(Table& block, uint64_t cluster, uint64_t count, Lowered lowered = Lowered::in_memory);
  void use(uint64_t first, uint64_t count);
  bool has_block(uint64_t index) const { return index < table_.size() && table_[index] != 0; }
  Attempt<void> grow_table(uint64_t least_entries);
  Attempt<HostRun> place(uint64_t count, uint64_t entries);

  Layout layout_;
  MetadataSet& metadata_;
  std::vector<uint64_t> table_;
  uint64_t table_offset_;
  uint64_t most_clusters_;
  uint64_t max_count_;
  TableCache blocks_;
  uint64_t hint_ = 0;  // every cluster before is in use
  uint64_t used_end_;
  bool fresh_end_;
  Changes changes_;
};

}  // namespace minivmm::qcow2
