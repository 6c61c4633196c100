// "L1 table entry", "L2 table entry", bit 63: exactly where the refcount is 1, in the active state.
#include <unordered_map>

#include "devices/block/qcow2/check_walk.h"
#include "devices/block/qcow2/l2_entry_check.h"
#include "devices/block/qcow2/metadata_io.h"

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kCacheBytes = 64 << 20;

// The image's own counts, at random.
class StoredCounts {
 public:
  explicit StoredCounts(const CheckWalk& walk) : walk_(walk) {}

  // nullopt: load() first. Not a task: a loop of tasks that end at once would nest.
  std::optional<uint64_t> find(uint64_t cluster) const {
    if (!walk_.counts_differ) return walk_.references.count(cluster);
    const uint64_t per_block = walk_.header.refcounts_per_block();
    const uint64_t index = cluster / per_block;
    if (index >= walk_.refcount_table.size() || walk_.refcount_table[index] == 0) return 0;
    const auto found = blocks_.find(index);
    if (found == blocks_.end()) return std::nullopt;
    return load_refcount(found->second, walk_.header.refcount_order, cluster % per_block);
  }

  Task<Result<void>> load(uint64_t cluster) {
    const uint64_t cluster_size = walk_.header.cluster_size();
    if ((blocks_.size() + 1) * cluster_size > kCacheBytes) blocks_.clear();
    const uint64_t index = cluster / walk_.header.refcounts_per_block();
    std::vector<std::byte> block(cluster_size);
    const Result<void> good =
        co_await read_bytes(walk_.engine, walk_.file, walk_.refcount_table[index], block);
    if (!good) co_return good;
    blocks_[index] = std::move(block);
    co_return Result<void>();
  }

 private:
  const CheckWalk& walk_;
  std::unordered_map<uint64_t, std::vector<std::byte>> blocks_;
};

void compare(CheckWalk& walk, const char* what, uint64_t index, uint64_t entry, uint64_t count) {
  if ((count == 1) == ((entry & kCopied) != 0)) return;
  ++walk.wrong_copied;
  walk.corruption("{} {} ({:#x}) {} the COPIED flag, with a refcount of {}", what, index, entry,
                  count == 1 ? "lacks" : "has", count);
}

Task<Result<void>> check_l2_table(CheckWalk& walk, StoredCounts& counts, const L2Table& table,
                                  std::span<std::byte> buffer) {
  const Header& h = walk.header;
  Result<void> good = co_await read_bytes(walk.engine, walk.file, table.offset, buffer);
  if (!good) co_return good;
  const std::string what = fmt::format("the L2 table at {:#x}: entry", table.offset);
  for (uint64_t i = 0; i < h.l2_entries(); ++i) {
    const std::byte* at = buffer.data() + i * h.l2_entry_bytes();
    const uint64_t entry = load_be64(at);
    if (entry == 0) continue;
    const uint64_t bitmap = h.extended_l2() ? load_be64(at + 8) : 0;
    const EntryVerdict v =
        judge_l2_entry(h, walk.file_bytes, entry, bitmap, table.guest_offset + i * h.cluster_size());
    if (!v.allocated) continue;
    std::optional<uint64_t> count = 1;  // in an external data file
    if (!h.has_data_file()) {
      const uint64_t cluster = v.offset >> h.cluster_bits;
      count = counts.find(cluster);
      if (!count) {
        good = co_await counts.load(cluster);
        if (!good) co_return good;
        count = counts.find(cluster);
      }
    }
    compare(walk, what.c_str(), i, entry, *count);
  }
  co_return Result<void>();
}

}  // namespace

Task<Result<void>> check_copied_flags(CheckWalk& walk) {
  StoredCounts counts(walk);
  Result<void> good;
  for (size_t i = 0; i < walk.l1.size(); ++i) {
    const EntryVerdict v = judge_l1_entry(walk.header, walk.file_bytes, walk.l1[i]);
    if (!v.allocated) continue;
    const uint64_t cluster = v.offset >> walk.header.cluster_bits;
    std::optional<uint64_t> count = counts.find(cluster);
    if (!count) {
      good = co_await counts.load(cluster);
      if (!good) co_return good;
      count = counts.find(cluster);
    }
    compare(walk, "L1 entry", i, walk.l1[i], *count);
  }
  std::vector<std::byte> buffer(walk.header.cluster_size());
  for (const L2Table& table : walk.l2_tables) {
    if (!table.in_active) continue;
    good = co_await check_l2_table(walk, counts, table, buffer);
    if (!good) co_return good;
  }
  co_return Result<void>();
}

}  // namespace minivmm::qcow2
