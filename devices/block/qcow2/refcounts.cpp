#include "devices/block/qcow2/refcounts.h"

#include <algorithm>

namespace minivmm::qcow2 {

Refcounts::Refcounts(const Layout& layout, MetadataSet& metadata, Start start)
    : layout_(layout),
      metadata_(metadata),
      table_(std::move(start.table)),
      table_offset_(start.table_offset),
      most_clusters_(start.most_clusters),
      max_count_(layout.refcount_order == 6 ? ~uint64_t{0}
                                            : (uint64_t{1} << (1U << layout.refcount_order)) - 1),
      blocks_(layout.cluster_size(), start.cache_bytes),
      used_end_(start.file_clusters),
      fresh_end_(start.fresh_end) {}

Attempt<Table*> Refcounts::block(uint64_t index) {
  const uint64_t offset = table_[index];
  if (layout_.in_cluster(offset) != 0 || offset >> layout_.cluster_bits >= used_end_)
    return give_up(Errc::corrupt, "the refcount table points to where no block can be");
  Table* found = blocks_.find(offset);
  if (found == nullptr) return missing(blocks_, offset);
  return found;
}

uint64_t Refcounts::count_in(const Table& block, uint64_t cluster) const {
  return load_refcount(block.bytes, layout_.refcount_order, cluster & (per_block() - 1));
}

Attempt<TablePtr> Refcounts::block_at(uint64_t index) {
  if (!has_block(index)) return give_up(Errc::corrupt, "a cluster in use is counted as free");
  const auto found = block(index);
  if (!found) return std::unexpected(found.error());
  return blocks_.get((*found)->offset);
}

void Refcounts::set(Table& block, uint64_t cluster, uint64_t count, Lowered lowered) {
  const uint64_t index = cluster & (per_block() - 1);
  store_refcount(block.bytes, layout_.refcount_order, index, count);
  if (lowered == Lowered::in_file_too) return;
  const uint64_t bits = uint64_t{1} << layout_.refcount_order;
  blocks_.mark_dirty(block, index * bits / 8, ((index + 1) * bits + 7) / 8);
}

void Refcounts::use(uint64_t first, uint64_t count) {
  const uint64_t end = first + count;
  used_end_ = std::max(used_end_, end);
  if (hint_ >= first && hint_ < end) hint_ = end;
}

// An empty block in `cluster`; that cluster's own count is up to the caller.
TablePtr Refcounts::add_block(uint64_t index, uint64_t cluster) {
  TablePtr added = blocks_.create(cluster << layout_.cluster_bits);
  table_[index] = added->offset;
  if (changes_.first >= changes_.end) {
    changes_.first = index;
    changes_.end = index + 1;
  } else {
    changes_.first = std::min(changes_.first, index);
    changes_.end = std::max(changes_.end, index + 1);
  }
  metadata_.insert(cluster);
  return added;
}

Attempt<HostRun> Refcounts::allocate(uint64_t wanted) {
  for (;;) {
    if (hint_ >= most_clusters_) return give_up(Errc::no_space, "the image has no room for more clusters");
    const uint64_t index = hint_ / per_block();
    const uint64_t begin = index * per_block();
    const uint64_t end = std::min(begin + per_block(), most_clusters_);
    if (index >= table_.size()) {
      const auto grown = grow_table(index + 1);
      if (!grown) return std::unexpected(grown.error());
      continue;
    }
    if (table_[index] == 0) {  // a new block is the first cluster of those it counts
      if (metadata_.overlaps(begin, 1))
        return give_up(Errc::corrupt, "metadata lies where the refcounts say that nothing is");
      const TablePtr added = add_block(index, begin);
      set(*added, begin, 1);
      use(begin, 1);
      continue;
    }
    const auto found = block(index);
    if (!found) return std::unexpected(found.error());
    Table& counts = **found;
    while (hint_ < end && count_in(counts, hint_) != 0) ++hint_;
    if (hint_ == end) continue;
    if (metadata_.overlaps(hint_, 1))
      return give_up(Errc::corrupt, "metadata lies where the refcounts say that nothing is");
    HostRun run{hint_, 0, hint_ >= used_end_ && fresh_end_};
    const uint64_t stop = hint_ < used_end_ ? std::min(end, used_end_) : end;  // all fresh, or none
    while (run.count < wanted && hint_ < stop && count_in(counts, hint_) == 0 &&
           !metadata_.overlaps(hint_, 1)) {
      set(counts, hint_, 1);
      ++run.count;
      ++hint_;
    }
    use(run.first, run.count);
    return run;
  }
}

Attempt<HostRun> Refcounts::allocate_together(uint64_t count) {
  const uint64_t entries = (used_end_ + count) / per_block() + 1;
  // The blocks that count these clusters come before them: a few more than the clusters alone would ask for.
  const uint64_t needed = (used_end_ + count + entries) / per_block() + 2;
  if (needed > table_.size()) {
    const auto grown = grow_table(needed);
    if (!grown) return std::unexpected(grown.error());
    return allocate_together(count);  // used_end_ has moved; the table grew by half at least
  }
  return place(count, table_.size());
}

// `count` clusters at the end of what is used, with the blocks that are missing to count them before them;
// for a table that has, or is about to have, `entries`.
Attempt<HostRun> Refcounts::place(uint64_t count, uint64_t entries) {
  const uint64_t begin = used_end_;
  const uint64_t first_block = begin / per_block();
  uint64_t missing_blocks = 0;
  uint64_t last_block = 0;
  for (;;) {
    last_block = (begin + missing_blocks + count - 1) / per_block();
    if (last_block >= entries) return give_up(Errc::no_space, "the image has no room for more clusters");
    uint64_t lacking = 0;
    for (uint64_t index = first_block; index <= last_block; ++index)
      if (!has_block(index)) ++lacking;
    if (lacking == missing_blocks) break;  // it never becomes less as the range grows
    missing_blocks = lacking;
  }
  const uint64_t all = missing_blocks + count;
  if (all > most_clusters_ || begin > most_clusters_ - all)
    return give_up(Errc::no_space, "the image has no room for more clusters");
  if (metadata_.overlaps(begin, all))
    return give_up(Errc::corrupt, "metadata lies where the refcounts say that nothing is");
  std::vector<TablePtr> held;
  for (uint64_t index = first_block; index <= last_block; ++index) {
    if (!has_block(index)) continue;
    const auto found = block(index);
    if (!found) return std::unexpected(found.error());
    held.push_back(blocks_.get((*found)->offset));
  }
  if (entries > table_.size()) table_.resize(entries);
  uint64_t next = begin;
  for (uint64_t index = first_block; index <= last_block; ++index)
    if (!has_block(index)) held.push_back(add_block(index, next++));
  for (uint64_t cluster = begin; cluster < begin + all; ++cluster) {
    const uint64_t offset = table_[cluster / per_block()];
    const auto counts = std::ranges::find(held, offset, [](const TablePtr& table) { return table->offset; });
    set(**counts, cluster, 1);
  }
  use(begin, all);
  return HostRun{next, count, fresh_end_};
}

Attempt<void> Refcounts::grow_table(uint64_t least_entries) {
  const uint64_t per_cluster = layout_.cluster_size() / 8;
  uint64_t entries = std::max(least_entries, table_.size() + table_.size() / 2);
  entries = std::max(entries, used_end_ / per_block() + 2);
  // Room for what the table itself and the blocks for it take.
  entries += (entries / per_cluster + 2) / per_block() * 2 + 2;
  const uint64_t clusters = (entries + per_cluster - 1) / per_cluster;
  if (clusters << layout_.cluster_bits > kMaxRefcountTableBytes)
    return give_up(Errc::no_space, "the image's refcount table is as large as it may get");
  const HostRun old{table_offset_ >> layout_.cluster_bits, table_clusters(), false};
  const auto placed = place(clusters, clusters * per_cluster);
  if (!placed) return std::unexpected(placed.error());
  table_offset_ = placed->first << layout_.cluster_bits;
  metadata_.insert_range(placed->first, placed->count);
  changes_.moved = true;
  changes_.old_tables.push_back(old);
  return {};
}

Attempt<uint64_t> Refcounts::count_of(uint64_t cluster) {
  const uint64_t index = cluster / per_block();
  if (!has_block(index)) return uint64_t{0};
  const auto found = block(index);
  if (!found) return std::unexpected(found.error());
  return count_in(**found, cluster);
}

Attempt<void> Refcounts::raise(uint64_t cluster) {
  const auto count = count_of(cluster);
  if (!count) return std::unexpected(count.error());
  if (*count == 0) return give_up(Errc::corrupt, "a cluster in use is counted as free");
  if (*count == max_count_)
    return give_up(Errc::too_large, "a cluster has as many references as it can have");
  set(**block(cluster / per_block()), cluster, *count + 1);
  return {};
}

Attempt<void> Refcounts::lower(uint64_t cluster, Lowered lowered) {
  const auto count = count_of(cluster);
  if (!count) return std::unexpected(count.error());
  if (*count == 0) return give_up(Errc::corrupt, "a cluster in use is counted as free");
  set(**block(cluster / per_block()), cluster, *count - 1, lowered);
  if (*count == 1) hint_ = std::min(hint_, cluster);
  return {};
}

Refcounts::Changes Refcounts::take_changes() {
  return std::exchange(changes_, {});
}

void Refcounts::restore(const Changes& changes, bool named) {
  if (!changes.any()) return;
  if (changes_.first >= changes_.end) {
    changes_.first = changes.first;
    changes_.end = changes.end;
  } else if (changes.first < changes.end) {
    changes_.first = std::min(changes_.first, changes.first);
    changes_.end = std::max(changes_.end, changes.end);
  }
  // Once the header may name it, the table is one that others read: its entries wait for their blocks.
  if (changes.moved && named) {
    changes_.first = 0;
    changes_.end = table_.size();
  } else {
    changes_.moved = changes_.moved || changes.moved;
  }
  changes_.old_tables.insert(changes_.old_tables.end(), changes.old_tables.begin(), changes.old_tables.end());
}

}  // namespace minivmm::qcow2
