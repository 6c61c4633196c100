#include "boot/disk/fat.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "boot/disk/fat_name.h"

namespace minivmm {

namespace {

constexpr uint64_t kMaxFolder = 65536 * sizeof(FatEntry);  // section 6: what a folder can hold
constexpr uint64_t kWindow = uint64_t{16} * 1024;          // of the FAT, read at a time

#pragma pack(push, 1)
struct BootSector {  // section 3
  uint8_t jump[3];
  char maker[8];
  uint16_t sector_size;
  uint8_t cluster_sectors;
  uint16_t reserved_sectors;
  uint8_t fats;
  uint16_t root_entries;
  uint16_t sectors16;
  uint8_t media;
  uint16_t fat_sectors16;
  uint16_t track_sectors;
  uint16_t heads;
  uint32_t hidden_sectors;
  uint32_t sectors32;
  uint32_t fat_sectors32;  // from here on FAT32 only
  uint16_t flags;
  uint16_t version;
  uint32_t root_cluster;
};
#pragma pack(pop)
static_assert(sizeof(BootSector) == 48);

}  // namespace

Result<std::unique_ptr<FatReader>> FatReader::open(const ByteSource& partition) {
  auto reader = std::unique_ptr<FatReader>(new FatReader(partition));
  if (auto parsed = reader->parse(); !parsed) return std::unexpected(parsed.error());
  return reader;
}

Result<void> FatReader::parse() {
  std::array<std::byte, 512> sector;
  if (auto got = disk_.read(0, sector); !got) return got;
  BootSector boot{};
  std::memcpy(&boot, sector.data(), sizeof boot);
  const auto no_fat = [] { return fail(Errc::unsupported, "no FAT file system"); };
  if (sector[510] != std::byte{0x55} || sector[511] != std::byte{0xaa}) return no_fat();
  if (boot.sector_size < 512 || boot.sector_size > 4096 || !std::has_single_bit(boot.sector_size) ||
      !std::has_single_bit(boot.cluster_sectors) || boot.reserved_sectors == 0 || boot.fats == 0) {
    return no_fat();
  }
  // Linux takes a file system for FAT32 by this field, not by its count of clusters as section 3.5 has it; a
  // small EFI partition made with mkfs.vfat -F 32 is why.
  const bool fat32 = boot.fat_sectors16 == 0;
  const uint64_t sectors = boot.sectors16 != 0 ? boot.sectors16 : boot.sectors32;
  const uint64_t fat_sectors = fat32 ? boot.fat_sectors32 : boot.fat_sectors16;
  const uint64_t unit = boot.sector_size;
  const uint64_t root_sectors = (boot.root_entries * sizeof(FatEntry) + unit - 1) / unit;
  const uint64_t data_sector = boot.reserved_sectors + boot.fats * fat_sectors + root_sectors;
  if (fat_sectors == 0 || data_sector >= sectors || (fat32 && root_sectors != 0)) return no_fat();

  cluster_size_ = boot.sector_size * boot.cluster_sectors;
  fat_offset_ = boot.reserved_sectors * unit;
  fat_size_ = fat_sectors * unit;
  root_offset_ = fat_offset_ + boot.fats * fat_size_;
  root_size_ = boot.root_entries * sizeof(FatEntry);
  data_offset_ = data_sector * unit;
  root_cluster_ = fat32 ? boot.root_cluster : 0;
  if (data_offset_ >= disk_.size()) return no_fat();
  const uint64_t clusters =
      std::min((sectors - data_sector) / boot.cluster_sectors, (disk_.size() - data_offset_) / cluster_size_);
  kind_ = fat32 ? Kind::fat32 : clusters < 4085 ? Kind::fat12 : Kind::fat16;  // 3.5
  // Clusters that the FAT does not describe are not there.
  const uint64_t described = (kind_ == Kind::fat32   ? fat_size_ / 4
                              : kind_ == Kind::fat16 ? fat_size_ / 2
                                                     : fat_size_ * 2 / 3);
  if (described < 3) return no_fat();
  cluster_count_ = static_cast<uint32_t>(std::min({clusters, described - 2, uint64_t{0x0ffffff5}}));
  return {};
}

// The number behind `cluster` in its chain; 0 at the end.
Result<uint32_t> FatReader::next_cluster(uint32_t cluster) const {
  const uint64_t at = kind_ == Kind::fat32   ? uint64_t{cluster} * 4
                      : kind_ == Kind::fat16 ? uint64_t{cluster} * 2
                                             : uint64_t{cluster} + cluster / 2;
  const size_t width = kind_ == Kind::fat32 ? 4 : 2;
  if (at + width > fat_size_) return fail(Errc::corrupt, "a FAT chain that leaves the FAT");
  if (at < window_offset_ || at + width > window_offset_ + window_.size()) {
    window_offset_ = at / 512 * 512;
    window_.resize(std::min(kWindow, fat_size_ - window_offset_));
    if (auto got = disk_.read(fat_offset_ + window_offset_, window_); !got) {
      window_.clear();
      return std::unexpected(got.error());
    }
  }
  uint32_t next = 0;
  std::memcpy(&next, window_.data() + (at - window_offset_), width);
  uint32_t end = 0;  // from this on it is the end of the chain
  switch (kind_) {
    case Kind::fat12:
      next = (cluster & 1) != 0 ? next >> 4 : next & 0xfff;
      end = 0xff8;
      break;
    case Kind::fat16: end = 0xfff8; break;
    case Kind::fat32:
      next &= 0x0fffffff;
      end = 0x0ffffff8;
      break;
  }
  return next >= end ? 0 : next;
}

Result<std::vector<std::byte>> FatReader::read_chain(uint32_t cluster, uint64_t size, bool may_end) const {
  // A chain that loops has more clusters than there are.
  const uint64_t wanted = (size + cluster_size_ - 1) / cluster_size_;
  if (wanted > cluster_count_ && !may_end) return fail(Errc::corrupt, "a file larger than its file system");
  std::vector<std::byte> out;
  if (!may_end) out.reserve(size);
  uint64_t steps = 0;
  while (out.size() < size && cluster != 0) {
    // As many clusters in one read as lie one behind the other.
    const uint32_t first = cluster;
    uint32_t run = 0;
    do {
      if (cluster < 2 || cluster - 2 >= cluster_count_ || steps++ >= cluster_count_)
        return fail(Errc::corrupt, "a FAT chain that leads nowhere");
      ++run;
      const auto next = next_cluster(cluster);
      if (!next) return std::unexpected(next.error());
      cluster = *next;
    } while (cluster == first + run && out.size() + uint64_t{run} * cluster_size_ < size);
    const size_t begin = out.size();
    out.resize(begin + std::min(size - begin, uint64_t{run} * cluster_size_));
    const uint64_t at = data_offset_ + uint64_t{first - 2} * cluster_size_;
    if (auto got = disk_.read(at, std::span(out).subspan(begin)); !got) return std::unexpected(got.error());
  }
  if (out.size() < size && !may_end) return fail(Errc::corrupt, "a file whose FAT chain is too short");
  return out;
}

Result<std::vector<std::byte>> FatReader::read_folder(const Entry& folder) const {
  if (folder.cluster != 0) return read_chain(folder.cluster, kMaxFolder, true);
  std::vector<std::byte> out(root_size_);
  if (auto got = disk_.read(root_offset_, out); !got) return std::unexpected(got.error());
  return out;
}

Result<FatReader::Entry> FatReader::find_in(const Entry& folder, std::string_view name) const {
  const auto bytes = read_folder(folder);
  if (!bytes) return std::unexpected(bytes.error());
  FatLongName long_name;
  for (size_t at = 0; at + sizeof(FatEntry) <= bytes->size(); at += sizeof(FatEntry)) {
    FatEntry entry{};
    std::memcpy(&entry, bytes->data() + at, sizeof entry);
    if (entry.name[0] == 0) break;  // 6.1: nothing behind it is used
    if (entry.name[0] == 0xe5) {
      long_name.drop();
    } else if ((entry.attributes & kFatLongName) == kFatLongName) {
      long_name.add(std::span(*bytes).subspan(at).first<sizeof(FatEntry)>());
    } else {
      const std::string longer = long_name.take(entry);
      if ((entry.attributes & kFatVolumeLabel) != 0) continue;
      if (!same_fat_name(longer, name) && !same_fat_name(fat_short_name(entry), name)) continue;
      const uint32_t high = kind_ == Kind::fat32 ? uint32_t{entry.cluster_high} << 16 : 0;
      return Entry{.cluster = high | entry.cluster_low,
                   .size = entry.size,
                   .folder = (entry.attributes & kFatFolder) != 0};
    }
  }
  return fail(Errc::out_of_range, "no such file");
}

Result<FatReader::Entry> FatReader::find(std::string_view path) const {
  Entry at{.cluster = root_cluster_, .size = 0, .folder = true};
  const auto walked = for_each_name(path, [&](std::string_view name) -> Result<void> {
    if (!at.folder) return fail(Errc::out_of_range, "no such file");
    const auto entry = find_in(at, name);
    if (!entry) return std::unexpected(entry.error());
    at = *entry;
    return {};
  });
  if (!walked) return std::unexpected(walked.error());
  if (at.folder) return fail(Errc::out_of_range, "a folder where a file is wanted");
  return at;
}

Result<uint64_t> FatReader::file_size(std::string_view path) const {
  const auto entry = find(path);
  if (!entry) return std::unexpected(entry.error());
  return entry->size;
}

Result<std::vector<std::byte>> FatReader::read_file(std::string_view path, uint64_t most) const {
  const auto entry = find(path);
  if (!entry) return std::unexpected(entry.error());
  return read_chain(entry->cluster, std::min<uint64_t>(entry->size, most), false);
}

}  // namespace minivmm
