#include "boot/disk/gpt.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "boot/disk/gpt_format.h"
#include "boot/disk/utf16.h"

namespace minivmm {

namespace {

constexpr uint64_t kMaxEntriesSize = uint64_t{128} * 1024;  // usual are 128 entries of 128 bytes: 16 KiB

GptHeader header_in(std::span<const std::byte> sector) {
  GptHeader header{};
  std::memcpy(&header, sector.data(), sizeof header);
  return header;
}

struct Table {
  std::vector<std::byte> header;
  std::vector<std::byte> entries;
};

// The table whose header is in this sector; nullopt unless both checksums are right.
std::optional<Table> read_table(const ByteSource& disk, uint64_t lba, uint32_t sector_size) {
  const uint64_t sectors = disk.size() / sector_size;
  Table table;
  table.header.resize(sector_size);
  if (lba >= sectors || !disk.read(lba * sector_size, table.header)) return std::nullopt;
  const GptHeader header = header_in(table.header);
  if (std::memcmp(header.signature.data(), "EFI PART", 8) != 0) return std::nullopt;
  if (header.header_size < sizeof header || header.header_size > sector_size || header.my_lba != lba)
    return std::nullopt;
  std::vector<std::byte> summed(table.header.begin(), table.header.begin() + header.header_size);
  std::memset(summed.data() + offsetof(GptHeader, header_crc), 0, sizeof header.header_crc);
  if (gpt_crc(summed) != header.header_crc) return std::nullopt;

  if (header.entry_size < sizeof(GptEntry) || header.entry_size % 8 != 0 || header.entry_size > 4096 ||
      header.entry_count == 0) {
    return std::nullopt;
  }
  const uint64_t size = uint64_t{header.entry_count} * header.entry_size;
  if (size > kMaxEntriesSize || header.entries_lba >= sectors) return std::nullopt;
  const uint64_t whole = (size + sector_size - 1) / sector_size;
  if (whole > sectors - header.entries_lba) return std::nullopt;
  table.entries.resize(whole * sector_size);
  if (!disk.read(header.entries_lba * sector_size, table.entries)) return std::nullopt;
  if (gpt_crc(std::span(table.entries).first(size)) != header.entries_crc) return std::nullopt;
  return table;
}

}  // namespace

uint32_t gpt_crc(std::span<const std::byte> bytes) {
  return static_cast<uint32_t>(
      ::crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
}

bool is_mbr(std::span<const std::byte, 512> sector) {
  return sector[510] == std::byte{0x55} && sector[511] == std::byte{0xaa};
}

bool is_protective_mbr(std::span<const std::byte, 512> sector) {
  if (!is_mbr(sector)) return false;
  for (size_t i = 0; i < 4; ++i) {
    const size_t type_at = kMbrEntries + i * sizeof(MbrEntry) + offsetof(MbrEntry, type);
    if (sector[type_at] == std::byte{kMbrProtective}) return true;
  }
  return false;
}

Result<Gpt> Gpt::read(const ByteSource& disk) {
  std::array<std::byte, 512> mbr;
  if (auto got = disk.read(0, mbr); !got) return std::unexpected(got.error());
  if (!is_protective_mbr(mbr)) return fail(Errc::corrupt, "no GPT");
  for (const uint32_t sector_size : {512U, 4096U}) {
    const uint64_t sectors = disk.size() / sector_size;
    if (sectors < 2) continue;
    auto table = read_table(disk, 1, sector_size);
    const bool from_backup = !table;
    if (!table) table = read_table(disk, sectors - 1, sector_size);
    if (!table) continue;
    Gpt gpt;
    gpt.header_ = std::move(table->header);
    gpt.entries_ = std::move(table->entries);
    gpt.disk_sectors_ = sectors;
    gpt.sector_size_ = sector_size;
    gpt.from_backup_ = from_backup;
    gpt.decode();
    return gpt;
  }
  return fail(Errc::corrupt, "no GPT with right checksums");
}

void Gpt::decode() {
  const GptHeader header = header_in(header_);
  disk_ = header.disk;
  partitions_.clear();
  for (uint32_t i = 0; i < header.entry_count; ++i) {
    GptEntry entry{};
    std::memcpy(&entry, entries_.data() + size_t{i} * header.entry_size, sizeof entry);
    if (entry.type == Guid{} || entry.first > entry.last || entry.last >= disk_sectors_) continue;
    const std::array<uint16_t, 36> name = entry.name;
    partitions_.push_back({.number = i + 1,
                           .type = entry.type,
                           .id = entry.id,
                           .offset = entry.first * sector_size_,
                           .size = (entry.last - entry.first + 1) * sector_size_,
                           .attributes = entry.attributes,
                           .name = utf8_of(name)});
  }
}

// Where the table that was not read belongs: clear of the partitions, or nowhere.
Result<Gpt::Copy> Gpt::other_copy() const {
  const GptHeader header = header_in(header_);
  const uint64_t sectors = entries_.size() / sector_size_;
  if (header.first_usable > header.last_usable || header.last_usable >= disk_sectors_)
    return fail(Errc::unsupported, "a GPT whose usable range is not in the disk");
  if (from_backup_) {
    if (header.alternate_lba != 1 || header.first_usable < 2 + sectors)
      return fail(Errc::unsupported, "a GPT whose primary table has no room");
    return Copy{1, 2};
  }
  const uint64_t at = header.alternate_lba;
  if (at >= disk_sectors_ || at <= header.last_usable || at - header.last_usable - 1 < sectors)
    return fail(Errc::unsupported, "a GPT whose backup table has no room in this disk");
  return Copy{at, at - sectors};
}

Result<void> Gpt::write_copy(ByteSink& to, const Copy& at, uint64_t other_header) const {
  std::vector<std::byte> sector = header_;
  GptHeader header = header_in(sector);
  const size_t size = size_t{header.entry_count} * header.entry_size;
  header.my_lba = at.header_lba;
  header.alternate_lba = other_header;
  header.entries_lba = at.entries_lba;
  header.entries_crc = gpt_crc(std::span(entries_).first(size));
  header.header_crc = 0;
  std::memcpy(sector.data(), &header, sizeof header);
  header.header_crc = gpt_crc(std::span(sector).first(header.header_size));
  std::memcpy(sector.data(), &header, sizeof header);
  if (auto done = to.write(at.entries_lba * sector_size_, entries_); !done) return done;
  if (auto done = to.write(at.header_lba * sector_size_, sector); !done) return done;
  return to.flush();
}

Result<void> Gpt::write_attributes(ByteSink& to, uint32_t number, uint64_t attributes) {
  const GptHeader header = header_in(header_);
  if (number == 0 || number > header.entry_count) return fail(Errc::out_of_range, "no such partition");
  const auto other = other_copy();
  if (!other) return std::unexpected(other.error());
  std::byte* entry = entries_.data() + size_t{number - 1} * header.entry_size;
  std::memcpy(entry + offsetof(GptEntry, attributes), &attributes, sizeof attributes);
  // The table that was read stays whole until the other one is on stable storage.
  if (auto done = write_copy(to, *other, header.my_lba); !done) return done;
  if (auto done = write_copy(to, {header.my_lba, header.entries_lba}, other->header_lba); !done) return done;
  decode();
  return {};
}

}  // namespace minivmm
