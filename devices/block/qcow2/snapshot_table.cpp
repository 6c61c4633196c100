// "Snapshots": the snapshot table.
#include <algorithm>

#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

namespace {

constexpr size_t kFixedBytes = 40;  // before the extra data

uint32_t load_be16(const std::byte* at) {
  return std::to_integer<uint32_t>(at[0]) << 8 | std::to_integer<uint32_t>(at[1]);
}

std::string text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

std::optional<uint64_t> Snapshot::disk_size() const {
  if (extra.size() < 16) return std::nullopt;  // byte 48 of the entry
  return load_be64(extra.data() + 8);
}

uint64_t Snapshot::vm_state_size() const {
  return extra.size() < 8 ? vm_state_bytes : load_be64(extra.data());
}

Result<std::vector<Snapshot>> decode_snapshots(std::span<const std::byte> table, uint32_t count,
                                               uint64_t& used) {
  std::vector<Snapshot> out;
  uint64_t at = 0;
  const auto room = [&] { return table.size() - at; };
  for (uint32_t i = 0; i < count; ++i) {
    if (at > table.size() || room() < kFixedBytes)
      return fail(Errc::out_of_range, "the snapshot table is cut short");
    const std::byte* entry = table.data() + at;
    Snapshot s;
    s.l1_offset = load_be64(entry);
    s.l1_size = load_be32(entry + 8);
    const uint64_t id_bytes = load_be16(entry + 12);
    const uint64_t name_bytes = load_be16(entry + 14);
    s.seconds = load_be32(entry + 16);
    s.nanoseconds = load_be32(entry + 20);
    s.vm_clock_ns = load_be64(entry + 24);
    s.vm_state_bytes = load_be32(entry + 32);
    const uint64_t extra_bytes = load_be32(entry + 36);
    const uint64_t bytes = kFixedBytes + extra_bytes + id_bytes + name_bytes;
    if (at + bytes > kMaxSnapshotTableBytes) return fail(Errc::too_large, "the snapshot table is too large");
    if (uint64_t{s.l1_size} * 8 > kMaxL1Bytes)
      return fail(Errc::too_large, "a snapshot's L1 table is too large");
    if (room() < bytes) return fail(Errc::out_of_range, "the snapshot table is cut short");
    const auto extra = table.subspan(at + kFixedBytes, extra_bytes);
    s.extra.assign(extra.begin(), extra.end());
    s.id = text(table.subspan(at + kFixedBytes + extra_bytes, id_bytes));
    s.name = text(table.subspan(at + kFixedBytes + extra_bytes + id_bytes, name_bytes));
    out.push_back(std::move(s));
    at += (bytes + 7) / 8 * 8;
  }
  used = std::min<uint64_t>(at, table.size());  // the last one's padding may be missing
  return out;
}

std::vector<std::byte> encode_snapshots(std::span<const Snapshot> snapshots) {
  std::vector<std::byte> out;
  for (const Snapshot& s : snapshots) {
    const size_t at = out.size();
    const size_t bytes = kFixedBytes + s.extra.size() + s.id.size() + s.name.size();
    out.resize(at + (bytes + 7) / 8 * 8);
    std::byte* entry = out.data() + at;
    store_be64(entry, s.l1_offset);
    store_be32(entry + 8, s.l1_size);
    store_be32(entry + 12, static_cast<uint32_t>(s.id.size() << 16 | s.name.size()));
    store_be32(entry + 16, s.seconds);
    store_be32(entry + 20, s.nanoseconds);
    store_be64(entry + 24, s.vm_clock_ns);
    store_be32(entry + 32, s.vm_state_bytes);
    store_be32(entry + 36, static_cast<uint32_t>(s.extra.size()));
    std::byte* rest = std::ranges::copy(s.extra, entry + kFixedBytes).out;
    rest = std::ranges::copy(std::as_bytes(std::span(s.id)), rest).out;
    std::ranges::copy(std::as_bytes(std::span(s.name)), rest);
  }
  return out;
}

}  // namespace minivmm::qcow2
