// The independent count: every reference that the image's metadata makes to its clusters.
#include <algorithm>

#include "devices/block/qcow2/bitmaps.h"
#include "devices/block/qcow2/check_walk.h"
#include "devices/block/qcow2/l2_entry_check.h"
#include "devices/block/qcow2/metadata_io.h"

namespace minivmm::qcow2 {

namespace {

// L2 tables held in memory at once: 16 bytes or so each.
constexpr size_t kMaxL2Tables = size_t{16} << 20;
constexpr uint64_t kPiece = 128 << 10;  // entries of a long table read at once

// References to `bytes` from `offset` on; whether nothing else is there. All within the file.
Result<bool> refer(CheckWalk& walk, uint64_t offset, uint64_t bytes, ClusterUse use, uint64_t times = 1) {
  if (bytes == 0) return true;
  bool alone = true;
  const unsigned bits = walk.header.cluster_bits;
  for (uint64_t c = offset >> bits; c <= (offset + bytes - 1) >> bits; ++c) {
    const Result<ClusterUse> other = walk.references.add(c, use, times);
    if (!other) return std::unexpected(other.error());
    if (*other == ClusterUse::none) continue;
    alone = false;
    ++walk.bad_entries;
    walk.corruption("cluster {:#x} is used as {} and as {}", c << bits, to_string(*other), to_string(use));
  }
  return alone;
}

// A table that is read whole: refused where it cannot be one. Whether it may be read.
Result<bool> refer_table(CheckWalk& walk, const char* name, uint64_t offset, uint64_t bytes, ClusterUse use) {
  if (const auto good = check_table(walk.header, walk.file_bytes, offset, bytes); !good) {
    ++walk.bad_entries;
    walk.corruption("the {} at {:#x} ({} bytes): {}", name, offset, bytes, good.error().what);
    return false;
  }
  return refer(walk, offset, bytes, use);
}

Task<Result<void>> walk_refcount_table(CheckWalk& walk) {
  const Header& h = walk.header;
  if (h.refcount_table_clusters == 0) {  // ForRepair let it through
    walk.counts_low = true;
    walk.corruption("the refcount table is missing or misplaced");
    co_return Result<void>();
  }
  const uint64_t bytes = uint64_t{h.refcount_table_clusters} << h.cluster_bits;
  const auto readable = refer(walk, h.refcount_table_offset, bytes, ClusterUse::refcount_table);
  if (!readable) co_return std::unexpected(readable.error());
  auto table = co_await read_numbers(walk.engine, walk.file, h.refcount_table_offset, bytes / 8);
  if (!table) co_return std::unexpected(table.error());
  for (size_t i = 0; i < table->size(); ++i) {
    uint64_t& entry = (*table)[i];
    if (entry == 0) continue;
    const char* problem = nullptr;
    if (entry % 512 != 0) {
      problem = "has reserved bits set";
    } else if (entry % h.cluster_size() != 0) {
      problem = "is not on a cluster boundary";
    } else if (entry >= walk.file_bytes) {
      problem = "is outside the file";
    }
    if (!problem) {
      const auto alone = refer(walk, entry, h.cluster_size(), ClusterUse::refcount_block);
      if (!alone) co_return std::unexpected(alone.error());
      if (*alone) continue;
      // What it holds may be anything; refer() has counted the corruption, which new structures mend.
      --walk.bad_entries;
    } else {
      walk.corruption("refcount block {} at {:#x} {}", i, entry, problem);
    }
    walk.counts_low = true;
    entry = 0;
  }
  walk.refcount_table = std::move(*table);
  co_return Result<void>();
}

// The L2 tables that an L1 table refers to; the tables themselves are walked later, each once.
Result<void> walk_l1_entries(CheckWalk& walk, std::span<const uint64_t> entries, const std::string& whose,
                             uint64_t first_index) {
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i] == 0) continue;
    const EntryVerdict v = judge_l1_entry(walk.header, walk.file_bytes, entries[i]);
    if (v.problem) {
      ++walk.bad_entries;
      ++walk.mendable;
      walk.corruption("{}L1 entry {} ({:#x}) {}", whose, first_index + i, entries[i], v.problem);
    }
    const auto alone = refer(walk, v.offset, v.bytes, ClusterUse::l2);
    if (!alone) return std::unexpected(alone.error());
  }
  return {};
}

Task<Result<void>> walk_l1_tables(CheckWalk& walk) {
  const Header& h = walk.header;
  auto readable = refer(walk, h.l1_offset, uint64_t{h.l1_size} * 8, ClusterUse::l1);
  if (!readable) co_return std::unexpected(readable.error());
  auto l1 = co_await read_numbers(walk.engine, walk.file, h.l1_offset, h.l1_size);
  if (!l1) co_return std::unexpected(l1.error());
  walk.l1 = std::move(*l1);
  // All the L1 tables' own places first: where two of them lie on each other, the second is not walked, so
  // what is walked is bounded by the file.
  std::vector<Snapshot> walkable;
  for (Snapshot& s : walk.snapshots) {
    readable = refer_table(walk, "snapshot's L1 table", s.l1_offset, uint64_t{s.l1_size} * 8, ClusterUse::l1);
    if (!readable) co_return std::unexpected(readable.error());
    if (*readable) walkable.push_back(std::move(s));
  }
  walk.snapshots = std::move(walkable);

  Result<void> good = walk_l1_entries(walk, walk.l1, "", 0);
  if (!good) co_return good;
  for (const Snapshot& s : walk.snapshots) {
    const std::string whose = fmt::format("snapshot {}: ", s.id);
    for (uint64_t at = 0; at < s.l1_size; at += kPiece) {
      const uint64_t entries = std::min<uint64_t>(kPiece, s.l1_size - at);
      auto piece = co_await read_numbers(walk.engine, walk.file, s.l1_offset + at * 8, entries);
      if (!piece) co_return std::unexpected(piece.error());
      good = walk_l1_entries(walk, *piece, whose, at);
      if (!good) co_return good;
    }
  }
  co_return Result<void>();
}

// What the L1 tables refer to, from the map: so that an L2 table which many refer to is walked once.
Result<void> list_l2_tables(CheckWalk& walk) {
  const ReferenceMap& map = walk.references;
  for (const uint64_t chunk : map.chunks()) {
    for (uint64_t c = chunk * ReferenceMap::kChunk; c < (chunk + 1) * ReferenceMap::kChunk; ++c) {
      if (map.use(c) != ClusterUse::l2) continue;
      if (walk.l2_tables.size() == kMaxL2Tables)
        return fail(Errc::too_large, "the image has too many L2 tables");
      walk.l2_tables.push_back({.offset = c << walk.header.cluster_bits, .references = map.count(c)});
    }
  }
  return {};
}

L2Table* find_l2_table(CheckWalk& walk, uint64_t offset) {
  const auto found = std::ranges::lower_bound(walk.l2_tables, offset, {}, &L2Table::offset);
  return found != walk.l2_tables.end() && found->offset == offset ? &*found : nullptr;
}

// The clusters that one L2 table refers to.
Result<void> walk_l2_entries(CheckWalk& walk, std::span<const std::byte> bytes, const L2Table& table) {
  const Header& h = walk.header;
  CheckResult& r = walk.result;
  uint64_t next_contiguous = 0;
  for (uint64_t i = 0; i < h.l2_entries(); ++i) {
    const std::byte* at = bytes.data() + i * h.l2_entry_bytes();
    const uint64_t entry = load_be64(at);
    const uint64_t bitmap = h.extended_l2() ? load_be64(at + 8) : 0;
    if (entry == 0 && bitmap == 0) continue;
    const EntryVerdict v =
        judge_l2_entry(h, walk.file_bytes, entry, bitmap, table.guest_offset + i * h.cluster_size());
    if (v.problem) {
      ++walk.bad_entries;
      ++walk.mendable;
      walk.corruption("entry {} ({:#x}) of the L2 table at {:#x} {}", i, entry, table.offset, v.problem);
    }
    const auto alone = refer(walk, v.offset, v.bytes, ClusterUse::data, table.references);
    if (!alone) return std::unexpected(alone.error());
    if (!table.in_active || !(v.allocated || v.compressed)) continue;
    ++r.allocated_clusters;
    if (v.compressed) {
      ++r.compressed_clusters;
      ++r.fragmented_clusters;  // "fragmented by nature", as qemu-img counts them
      continue;
    }
    const uint64_t offset = entry & kOffsetMask;
    if (next_contiguous != 0 && offset != next_contiguous) ++r.fragmented_clusters;
    next_contiguous = offset + h.cluster_size();
  }
  return {};
}

Task<Result<void>> walk_l2_table(CheckWalk& walk, L2Table& table, std::span<std::byte> buffer) {
  table.walked = true;
  const Result<void> good = co_await read_bytes(walk.engine, walk.file, table.offset, buffer);
  if (!good) co_return good;
  co_return walk_l2_entries(walk, buffer, table);
}

Task<Result<void>> walk_l2_tables(CheckWalk& walk) {
  const Header& h = walk.header;
  std::vector<std::byte> buffer(h.cluster_size());
  uint64_t done = 0;
  const auto tell = [&] {
    ++done;
    const bool now = done % 64 == 0 || done == walk.l2_tables.size();
    if (walk.progress && now) walk.progress(done, walk.l2_tables.size());
  };
  Result<void> good;
  for (size_t i = 0; i < walk.l1.size(); ++i) {
    const EntryVerdict v = judge_l1_entry(h, walk.file_bytes, walk.l1[i]);
    L2Table* table = v.bytes == 0 ? nullptr : find_l2_table(walk, v.offset);
    if (!table || table->walked) continue;
    table->in_active = true;
    table->guest_offset = i * h.l2_entries() * h.cluster_size();
    good = co_await walk_l2_table(walk, *table, buffer);
    if (!good) co_return good;
    tell();
  }
  for (L2Table& table : walk.l2_tables) {
    if (table.walked) continue;
    good = co_await walk_l2_table(walk, table, buffer);
    if (!good) co_return good;
    tell();
  }
  co_return Result<void>();
}

Task<Result<void>> walk_bitmap(CheckWalk& walk, const Bitmap& bitmap) {
  const Header& h = walk.header;
  const uint64_t bytes = uint64_t{bitmap.table_entries} * 8;
  const auto readable = refer_table(walk, "bitmap table", bitmap.table_offset, bytes, ClusterUse::bitmap);
  if (!readable) co_return std::unexpected(readable.error());
  if (!*readable) co_return Result<void>();
  for (uint64_t first = 0; first < bitmap.table_entries; first += kPiece) {
    const uint64_t entries = std::min<uint64_t>(kPiece, bitmap.table_entries - first);
    const auto piece =
        co_await read_numbers(walk.engine, walk.file, bitmap.table_offset + first * 8, entries);
    if (!piece) co_return std::unexpected(piece.error());
    for (const uint64_t entry : *piece) {
      const uint64_t offset = entry & kOffsetMask;
      if ((entry & kBitmapEntryReserved) != 0 || (offset != 0 && (entry & 1) != 0) ||
          !check_table(h, walk.file_bytes, offset, offset == 0 ? 0 : 1)) {
        ++walk.bad_entries;
        walk.corruption("the bitmap '{}' has a bad entry ({:#x})", bitmap.name, entry);
      } else if (offset != 0) {
        const auto alone = refer(walk, offset, h.cluster_size(), ClusterUse::bitmap);
        if (!alone) co_return std::unexpected(alone.error());
      }
    }
  }
  co_return Result<void>();
}

Task<Result<void>> walk_bitmaps(CheckWalk& walk) {
  const auto directory = bitmap_directory(walk.header, walk.file_bytes);
  if (directory && !*directory) co_return Result<void>();
  Result<std::vector<Bitmap>> bitmaps;
  if (directory) bitmaps = co_await read_bitmaps(walk.engine, walk.file, **directory);
  if (!directory || (!bitmaps && bitmaps.error().code != Errc::io)) {
    ++walk.bad_entries;
    walk.corruption("{}", !directory ? directory.error().what : bitmaps.error().what);
    co_return Result<void>();
  }
  if (!bitmaps) co_return std::unexpected(bitmaps.error());
  const auto alone = refer(walk, (*directory)->offset, (*directory)->bytes, ClusterUse::bitmap);
  if (!alone) co_return std::unexpected(alone.error());
  for (const Bitmap& bitmap : *bitmaps) {
    const Result<void> good = co_await walk_bitmap(walk, bitmap);
    if (!good) co_return good;
  }
  co_return Result<void>();
}

Task<Result<void>> walk_snapshot_table(CheckWalk& walk) {
  uint64_t used = 0;
  auto snapshots = co_await read_snapshots(walk.engine, walk.file, walk.header, used);
  if (!snapshots) co_return std::unexpected(snapshots.error());
  walk.snapshots = std::move(*snapshots);
  const auto alone = refer(walk, walk.header.snapshots_offset, used, ClusterUse::snapshot_table);
  if (!alone) co_return std::unexpected(alone.error());
  co_return Result<void>();
}

}  // namespace

Task<Result<void>> walk_references(CheckWalk& walk, CountRefcounts counts) {
  const Header& h = walk.header;
  const uint64_t covered = h.cluster_size();
  walk.result.total_clusters = h.size / covered + (h.size % covered != 0 ? 1 : 0);
  const auto header = refer(walk, 0, 1, ClusterUse::header);
  if (!header) co_return std::unexpected(header.error());
  Result<void> good;
  if (counts == CountRefcounts::yes) {
    good = co_await walk_refcount_table(walk);
    if (!good) co_return good;
  }
  good = co_await walk_snapshot_table(walk);
  if (!good) co_return good;
  good = co_await walk_l1_tables(walk);
  if (!good) co_return good;
  good = list_l2_tables(walk);
  if (!good) co_return good;
  // Before the data: a bitmap's clusters cannot become the guest's by this.
  good = co_await walk_bitmaps(walk);
  if (!good) co_return good;
  co_return co_await walk_l2_tables(walk);
}

}  // namespace minivmm::qcow2
