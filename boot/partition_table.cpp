#include "boot/partition_table.h"

#include <fmt/format.h>
#include <zlib.h>

#include <array>
#include <cstring>
#include <string_view>
#include <vector>

namespace minivmm {

namespace {

constexpr uint64_t kSector = 512;
using Guid = std::array<uint8_t, 16>;

// As they are stored: the first three groups little-endian.
constexpr Guid kRootX8664{0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d,
                          0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09};
constexpr Guid kLinuxFileSystem{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47,
                                0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4};

#pragma pack(push, 1)
struct GptHeader {  // UEFI 2.10, table 5.5
  std::array<char, 8> signature;
  uint32_t revision;
  uint32_t header_size;
  uint32_t header_crc;
  uint32_t reserved;
  uint64_t my_lba;
  uint64_t alternate_lba;
  uint64_t first_usable;
  uint64_t last_usable;
  Guid disk;
  uint64_t entries_lba;
  uint32_t entry_count;
  uint32_t entry_size;
  uint32_t entries_crc;
};
struct GptEntry {  // table 5.6
  Guid type;
  Guid id;
  uint64_t first;
  uint64_t last;
  uint64_t attributes;
  std::array<uint16_t, 36> name;
};
struct MbrEntry {
  uint8_t status;
  std::array<uint8_t, 3> first_chs;
  uint8_t type;
  std::array<uint8_t, 3> last_chs;
  uint32_t first;
  uint32_t sectors;
};
#pragma pack(pop)
static_assert(sizeof(GptHeader) == 92 && sizeof(GptEntry) == 128 && sizeof(MbrEntry) == 16);

constexpr uint64_t kMaxEntriesSize = uint64_t{128} * 1024;  // usual are 128 entries of 128 bytes: 16 KiB

uint32_t crc(const void* data, size_t size) {
  return static_cast<uint32_t>(::crc32(0, static_cast<const Bytef*>(data), static_cast<uInt>(size)));
}

std::string text(const Guid& g) {
  return fmt::format(
      "{:02x}{:02x}{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}",
      g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]);
}

// The entries of the table whose header is in this sector; nullopt unless both checksums are right.
std::optional<std::vector<GptEntry>> read_gpt(const DiskReader& read, uint64_t lba, uint64_t disk_sectors) {
  std::array<std::byte, kSector> sector;
  if (lba >= disk_sectors || !read(lba * kSector, sector)) return std::nullopt;
  GptHeader header{};
  std::memcpy(&header, sector.data(), sizeof header);
  if (std::memcmp(header.signature.data(), "EFI PART", 8) != 0) return std::nullopt;
  if (header.header_size < sizeof header || header.header_size > kSector || header.my_lba != lba)
    return std::nullopt;
  const uint32_t expected = header.header_crc;
  std::memset(sector.data() + offsetof(GptHeader, header_crc), 0, sizeof header.header_crc);
  if (crc(sector.data(), header.header_size) != expected) return std::nullopt;

  if (header.entry_size < sizeof(GptEntry) || header.entry_size % 8 != 0 || header.entry_size > 4096 ||
      header.entry_count == 0) {
    return std::nullopt;
  }
  const uint64_t size = uint64_t{header.entry_count} * header.entry_size;
  if (size > kMaxEntriesSize || header.entries_lba >= disk_sectors ||
      size > (disk_sectors - header.entries_lba) * kSector) {
    return std::nullopt;
  }
  std::vector<std::byte> raw(size);
  if (!read(header.entries_lba * kSector, raw) || crc(raw.data(), raw.size()) != header.entries_crc)
    return std::nullopt;
  std::vector<GptEntry> entries(header.entry_count);
  for (size_t i = 0; i < entries.size(); ++i)
    std::memcpy(&entries[i], raw.data() + i * header.entry_size, sizeof(GptEntry));
  return entries;
}

std::vector<Partition> of_type(const std::vector<GptEntry>& entries, const Guid& type,
                               uint64_t disk_sectors) {
  std::vector<Partition> found;
  for (const GptEntry& entry : entries) {
    if (entry.type != type || entry.first > entry.last || entry.last >= disk_sectors) continue;
    found.push_back({text(entry.id), entry.first * kSector, (entry.last - entry.first + 1) * kSector});
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
    std::memcpy(&entry, sector.data() + 446 + i * sizeof entry, sizeof entry);
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

std::optional<Partition> find_root_partition(const DiskReader& read, uint64_t disk_size_bytes) {
  const uint64_t sectors = disk_size_bytes / kSector;
  std::array<std::byte, kSector> mbr;
  if (sectors < 2 || !read(0, mbr)) return std::nullopt;
  if (mbr[510] != std::byte{0x55} || mbr[511] != std::byte{0xaa}) return std::nullopt;

  // As Linux does, a GPT counts only behind a protective MBR (UEFI 2.10, 5.2.3); the backup is in the last
  // sector.
  constexpr uint8_t kProtective = 0xee;
  bool is_protective = false;
  for (unsigned i = 0; i < 4; ++i) {
    const size_t type_at = 446 + i * sizeof(MbrEntry) + offsetof(MbrEntry, type);
    is_protective |= mbr[type_at] == std::byte{kProtective};
  }
  if (!is_protective) return find_in_mbr(mbr, sectors);
  auto entries = read_gpt(read, 1, sectors);
  if (!entries) entries = read_gpt(read, sectors - 1, sectors);
  if (!entries) return std::nullopt;
  auto candidates = of_type(*entries, kRootX8664, sectors);
  if (candidates.empty()) candidates = of_type(*entries, kLinuxFileSystem, sectors);
  if (candidates.size() != 1) return std::nullopt;
  return candidates.front();
}

}  // namespace minivmm
