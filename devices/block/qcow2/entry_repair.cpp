// Rewrites the entries of L1 and L2 tables as they should be.
#include <algorithm>

#include "devices/block/qcow2/check_walk.h"
#include "devices/block/qcow2/l2_entry_check.h"
#include "devices/block/qcow2/metadata_io.h"

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kPiece = 128 << 10;  // entries of an L1 table mended at once

// The count will be, or is, what the references are.
uint64_t copied_flag(const CheckWalk& walk, const EntryVerdict& v) {
  if (!v.allocated) return 0;
  const bool one = v.bytes == 0 ||  // in an external data file
                   walk.references.count(v.offset >> walk.header.cluster_bits) == 1;
  return one ? kCopied : 0;
}

// Whether anything changed.
bool mend_l1(const CheckWalk& walk, std::span<uint64_t> entries, bool active, uint64_t& lost) {
  bool changed = false;
  for (uint64_t& entry : entries) {
    const EntryVerdict v = judge_l1_entry(walk.header, walk.file_bytes, entry);
    const uint64_t mended = active ? (v.entry & ~kCopied) | copied_flag(walk, v) : v.entry;
    if (mended == entry) continue;
    lost += v.loses_data ? 1 : 0;
    entry = mended;
    changed = true;
  }
  return changed;
}

Task<Result<void>> mend_l1_table(const CheckWalk& walk, uint64_t offset, uint64_t size, bool active,
                                 uint64_t& lost) {
  for (uint64_t first = 0; first < size; first += kPiece) {
    const uint64_t at = offset + first * 8;
    auto piece = co_await read_numbers(walk.engine, walk.file, at, std::min(kPiece, size - first));
    if (!piece) co_return std::unexpected(piece.error());
    if (!mend_l1(walk, *piece, active, lost)) continue;
    const Result<void> good = co_await write_numbers(walk.engine, walk.file, at, *piece);
    if (!good) co_return good;
  }
  co_return Result<void>();
}

bool mend_l2(const CheckWalk& walk, const L2Table& table, std::span<std::byte> bytes, uint64_t& lost) {
  const Header& h = walk.header;
  bool changed = false;
  for (uint64_t i = 0; i < h.l2_entries(); ++i) {
    std::byte* at = bytes.data() + i * h.l2_entry_bytes();
    const uint64_t entry = load_be64(at);
    const uint64_t bitmap = h.extended_l2() ? load_be64(at + 8) : 0;
    const EntryVerdict v =
        judge_l2_entry(h, walk.file_bytes, entry, bitmap, table.guest_offset + i * h.cluster_size());
    const uint64_t mended = table.in_active ? (v.entry & ~kCopied) | copied_flag(walk, v) : v.entry;
    if (mended == entry && v.bitmap == bitmap) continue;
    lost += v.loses_data ? 1 : 0;
    store_be64(at, mended);
    if (h.extended_l2()) store_be64(at + 8, v.bitmap);
    changed = true;
  }
  return changed;
}

}  // namespace

Task<Result<uint64_t>> repair_entries(CheckWalk& walk) {
  const Header& h = walk.header;
  uint64_t lost = 0;
  Result<void> good = co_await mend_l1_table(walk, h.l1_offset, h.l1_size, true, lost);
  for (size_t i = 0; good && i < walk.snapshots.size(); ++i)
    good = co_await mend_l1_table(walk, walk.snapshots[i].l1_offset, walk.snapshots[i].l1_size, false, lost);
  if (!good) co_return std::unexpected(good.error());
  std::vector<std::byte> buffer(h.cluster_size());
  for (const L2Table& table : walk.l2_tables) {
    good = co_await read_bytes(walk.engine, walk.file, table.offset, buffer);
    if (good && mend_l2(walk, table, buffer, lost))
      good = co_await write_bytes(walk.engine, walk.file, table.offset, buffer);
    if (!good) co_return std::unexpected(good.error());
  }
  good = co_await walk.file.sync(walk.engine);
  if (!good) co_return std::unexpected(good.error());
  co_return lost;
}

}  // namespace minivmm::qcow2
