// New refcount structures beside the old ones, and the header's switch from these to those.
#include <algorithm>
#include <map>
#include <set>
#include <unordered_set>

#include "devices/block/qcow2/check_walk.h"
#include "devices/block/qcow2/metadata_io.h"

namespace minivmm::qcow2 {

namespace {

// Where the new structures go: clusters that nothing refers to and the old structures are not in.
class Placement {
 public:
  Placement(const CheckWalk& found, const CheckWalk& old)
      : references_(found.references), per_block_(found.header.refcounts_per_block()) {
    const unsigned bits = old.header.cluster_bits;
    for (uint32_t i = 0; i < old.header.refcount_table_clusters; ++i)
      old_.insert((old.header.refcount_table_offset >> bits) + i);
    for (const uint64_t block : old.refcount_table)
      old_.insert(block >> bits);  // 0: the header, not free either
    for (const uint64_t chunk : references_.chunks()) {
      for (uint64_t c = chunk * ReferenceMap::kChunk; c < (chunk + 1) * ReferenceMap::kChunk; ++c) {
        if (references_.count(c) != 0) wanted_.insert(wanted_.end(), c / per_block_);
      }
    }
  }

  // Places a table of `clusters` clusters, and the blocks for everything, itself included. False where the
  // table is too small for that.
  bool place(uint64_t clusters, uint64_t table_entries) {
    taken_.clear();
    blocks_.clear();
    cursor_ = 1;
    std::set<uint64_t> wanted = wanted_;
    table_ = take_run(clusters);
    for (uint64_t i = 0; i < clusters; ++i) wanted.insert((table_ + i) / per_block_);
    while (!wanted.empty()) {
      const uint64_t index = *wanted.begin();
      wanted.erase(wanted.begin());
      if (index >= table_entries) return false;
      if (blocks_.contains(index)) continue;
      const uint64_t cluster = take_one();
      blocks_[index] = cluster;
      wanted.insert(cluster / per_block_);
    }
    return true;
  }

  uint64_t highest_wanted() const { return wanted_.empty() ? 0 : *wanted_.rbegin(); }
  uint64_t table() const { return table_; }
  const std::map<uint64_t, uint64_t>& blocks() const { return blocks_; }  // index: cluster
  // Of cluster `c`, once everything is in place.
  uint64_t count(uint64_t c) const { return taken_.contains(c) ? 1 : references_.count(c); }

 private:
  bool is_free(uint64_t c) const {
    return references_.count(c) == 0 && !old_.contains(c) && !taken_.contains(c);
  }
  uint64_t take_one() {
    while (!is_free(cursor_)) ++cursor_;
    taken_.insert(cursor_);
    return cursor_++;
  }
  uint64_t take_run(uint64_t clusters) {
    uint64_t first = 1;
    for (uint64_t c = 1; c - first < clusters; ++c) {
      if (!is_free(c)) first = c + 1;
    }
    for (uint64_t c = first; c < first + clusters; ++c) taken_.insert(c);
    return first;
  }

  const ReferenceMap& references_;
  uint64_t per_block_;
  std::unordered_set<uint64_t> old_;
  std::set<uint64_t> wanted_;  // indexes of blocks that count something
  std::unordered_set<uint64_t> taken_;
  std::map<uint64_t, uint64_t> blocks_;
  uint64_t table_ = 0;  // its first cluster
  uint64_t cursor_ = 1;
};

Result<void> check_counts_fit(const CheckWalk& found) {
  for (const uint64_t chunk : found.references.chunks()) {
    for (uint64_t c = chunk * ReferenceMap::kChunk; c < (chunk + 1) * ReferenceMap::kChunk; ++c) {
      if (found.references.count(c) > found.header.max_refcount())
        return fail(Errc::unsupported, "a cluster has more references than the image's refcounts can count");
    }
  }
  return {};
}

Task<Result<void>> write_blocks(const CheckWalk& found, const Placement& placement) {
  const Header& h = found.header;
  std::vector<std::byte> bytes(h.cluster_size());
  for (const auto& [index, cluster] : placement.blocks()) {
    const uint64_t first = index * h.refcounts_per_block();
    for (uint64_t i = 0; i < h.refcounts_per_block(); ++i)
      store_refcount(bytes, h.refcount_order, i, placement.count(first + i));
    const Result<void> good =
        co_await write_bytes(found.engine, found.file, cluster << h.cluster_bits, bytes);
    if (!good) co_return good;
  }
  co_return Result<void>();
}

}  // namespace

Task<Result<void>> write_new_refcounts(const CheckWalk& found, const CheckWalk& old) {
  const Header& h = found.header;
  Result<void> good = check_counts_fit(found);
  if (!good) co_return good;
  Placement placement(found, old);
  // The structures count themselves: a larger table where they do not fit.
  uint64_t clusters = placement.highest_wanted() * 8 / h.cluster_size() + 1;
  for (;; ++clusters) {
    if (clusters * h.cluster_size() > kMaxRefcountTableBytes)
      co_return fail(Errc::too_large, "the image needs a refcount table that is too large");
    if (placement.place(clusters, clusters * h.cluster_size() / 8)) break;
  }

  good = co_await write_blocks(found, placement);
  if (!good) co_return good;
  std::vector<uint64_t> table(clusters * h.cluster_size() / 8);
  for (const auto& [index, cluster] : placement.blocks()) table[index] = cluster << h.cluster_bits;
  const uint64_t table_offset = placement.table() << h.cluster_bits;
  good = co_await write_numbers(found.engine, found.file, table_offset, table);
  if (good) good = co_await found.file.sync(found.engine);
  if (!good) co_return good;

  std::array<std::byte, 12> fields{};
  store_be64(fields.data(), table_offset);
  store_be32(fields.data() + 8, static_cast<uint32_t>(clusters));
  good = co_await write_bytes(found.engine, found.file, kFieldRefcountTableOffset, fields);
  if (good) good = co_await found.file.sync(found.engine);
  co_return good;
}

}  // namespace minivmm::qcow2
