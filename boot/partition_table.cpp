#include "boot/partition_table.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <vector>

#include "boot/disk/gpt.h"
#include "boot/disk/gpt_format.h"

namespace minivmm {

namespace {

constexpr uint64_t kSector = 512;
constexpr Guid kRootX8664 = Guid::of("4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
constexpr Guid kLinuxFileSystem = Guid::of("0fc63daf-8483-4772-8e79-3d69d8477de4");

std::vector<Partition> of_type(const Gpt& gpt, const Guid& type) {
  std::vector<Partition> found;
  for (const GptPartition& p : gpt.partitions()) {
    if (p.type == type) found.push_back({p.id.text(), p.offset, p.size});
  }
  return found;
}

std::optional<Partition> find_in_mbr(std::span<const std::byte, kSector> sector, uint64_t disk_sectors) {
  constexpr uint8_t kLinux = 0x83;
  uint32_t signature = 0;
  std::memcpy(&signature, sector.data() + 440, sizeof signature);
  std::optional<Partition> found;
  for (unsigned i = 0; i < 4; ++i) {
    MbrEntry entry{};
    std::memcpy(&entry, sector.data() + kMbrEntries + i * sizeof entry, sizeof entry);
    if (entry.type != kLinux || entry.sectors == 0 || entry.first == 0) continue;
    if (entry.first >= disk_sectors || entry.sectors > disk_sectors - entry.first) continue;
    if (found) return std::nullopt;
    found = Partition{fmt::format("{:08x}-{:02x}", signature, i + 1), entry.first * kSector,
                      entry.sectors * kSector};
  }
  // Linux gives no PARTUUIDs to a disk without a signature.
  return signature == 0 ? std::nullopt : found;
}

}  // namespace

std::optional<Partition> find_root_partition(const ByteSource& disk) {
  std::array<std::byte, kSector> mbr;
  if (!disk.read(0, mbr) || !is_mbr(mbr)) return std::nullopt;
  if (!is_protective_mbr(mbr)) return find_in_mbr(mbr, disk.size() / kSector);
  const auto gpt = Gpt::read(disk);
  if (!gpt) return std::nullopt;
  auto candidates = of_type(*gpt, kRootX8664);
  if (candidates.empty()) candidates = of_type(*gpt, kLinuxFileSystem);
  if (candidates.size() != 1) return std::nullopt;
  return candidates.front();
}

}  // namespace minivmm
