#include "tests/unit/boot/disk/gpt_builder.h"

#include <algorithm>

#include "boot/disk/gpt_format.h"

namespace minivmm::testing {

namespace {
constexpr uint32_t kEntries = 128;
}  // namespace

void seal_gpt(Bytes& disk, uint64_t lba, uint32_t sector_size) {
  const size_t at = lba * sector_size;
  auto header = get<GptHeader>(disk, at);
  const std::span<const std::byte> all(disk);
  const size_t size = std::min<size_t>(size_t{header.entry_count} * header.entry_size, 1 << 20);
  if (header.entries_lba < disk.size() / sector_size &&
      size <= disk.size() - header.entries_lba * sector_size) {
    header.entries_crc = gpt_crc(all.subspan(header.entries_lba * sector_size, size));
  }
  header.header_crc = 0;
  put(disk, at, header);
  header.header_crc = gpt_crc(all.subspan(at, std::min(header.header_size, sector_size)));
  put(disk, at, header);
}

Bytes make_gpt_disk(const GptSpec& spec) {
  const uint32_t sector = spec.sector_size;
  const uint64_t table_sectors = kEntries * sizeof(GptEntry) / sector;
  std::vector<GptEntry> entries(kEntries);
  uint64_t next = 2 + table_sectors;
  for (const PartitionSpec& p : spec.partitions) {
    GptEntry entry{
        .type = p.type,
        .id = p.id,
        .first = next,
        .last = next + std::max<uint64_t>({p.sectors, (p.contents.size() + sector - 1) / sector, 1}) - 1,
        .attributes = p.attributes,
        .name = {}};
    for (size_t i = 0; i < p.name.size(); ++i) entry.name.at(i) = static_cast<uint8_t>(p.name[i]);
    entries.at(p.number - 1) = entry;
    next = entry.last + 1;
  }
  const uint64_t sectors = next + spec.spare_sectors + table_sectors + 1;
  Bytes disk(sectors * sector);
  put(disk, 446 + 4, kMbrProtective);
  put(disk, 446 + 8, uint32_t{1});
  put(disk, 446 + 12, static_cast<uint32_t>(sectors - 1));
  put(disk, 510, uint16_t{0xaa55});
  for (const bool backup : {false, true}) {
    const uint64_t lba = backup ? sectors - 1 : 1;
    const uint64_t entries_lba = backup ? lba - table_sectors : 2;
    put(disk, lba * sector,
        GptHeader{.signature = {'E', 'F', 'I', ' ', 'P', 'A', 'R', 'T'},
                  .revision = 0x10000,
                  .header_size = sizeof(GptHeader),
                  .header_crc = 0,
                  .reserved = 0,
                  .my_lba = lba,
                  .alternate_lba = backup ? 1 : sectors - 1,
                  .first_usable = 2 + table_sectors,
                  .last_usable = sectors - 2 - table_sectors,
                  .disk = spec.disk,
                  .entries_lba = entries_lba,
                  .entry_count = kEntries,
                  .entry_size = sizeof(GptEntry),
                  .entries_crc = 0});
    for (size_t i = 0; i < entries.size(); ++i)
      put(disk, entries_lba * sector + i * sizeof(GptEntry), entries[i]);
    seal_gpt(disk, lba, sector);
  }
  for (const PartitionSpec& p : spec.partitions) {
    std::ranges::copy(p.contents,
                      disk.begin() + static_cast<std::ptrdiff_t>(entries.at(p.number - 1).first * sector));
  }
  return disk;
}

}  // namespace minivmm::testing
