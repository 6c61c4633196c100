#include "boot/root_device.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "tests/unit/boot/disk/memory_disk.h"
#include "tests/unit/boot/kernel_builder.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)
using namespace std::string_view_literals;

constexpr size_t kSector = 512;
constexpr size_t kSectors = 4096;
constexpr size_t kEntryCount = 128;
constexpr size_t kEntrySize = 128;

constexpr auto kRootType = "\xe3\xbc\x68\x4f\xcd\xe8\xb1\x4d\x96\xe7\xfb\xca\xf9\x84\xb7\x09"sv;
constexpr auto kLinuxType = "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4"sv;
constexpr auto kEspType = "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b"sv;

void write(Bytes& disk, size_t offset, std::string_view text) {
  std::ranges::transform(text, disk.begin() + static_cast<std::ptrdiff_t>(offset),
                         [](char c) { return static_cast<std::byte>(c); });
}

RootDevice find(const Bytes& disk) {
  return find_root_device(MemoryDisk(disk), "/dev/vda");
}

void write_ext(Bytes& disk, size_t at, uint32_t compatible, uint32_t incompatible, uint32_t read_only) {
  put(disk, at + 1024 + 0x04, uint32_t{1000});
  put(disk, at + 1024 + 0x18, uint32_t{2});
  put(disk, at + 1024 + 0x38, uint16_t{0xef53});
  put(disk, at + 1024 + 0x5c, compatible);
  put(disk, at + 1024 + 0x60, incompatible);
  put(disk, at + 1024 + 0x64, read_only);
}

void protective_mbr(Bytes& disk) {
  put(disk, 446 + 4, uint8_t{0xee});
  put(disk, 446 + 8, uint32_t{1});
  put(disk, 446 + 12, uint32_t{kSectors - 1});
  put(disk, 510, uint16_t{0xaa55});
}

struct GptPartition {
  std::string_view type;
  uint64_t first, last;
};

uint32_t crc(const Bytes& disk, size_t offset, size_t size) {
  return static_cast<uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(disk.data() + offset), static_cast<uInt>(size)));
}

void seal(Bytes& disk, size_t lba) {
  const size_t at = lba * kSector;
  put(disk, at + 88, crc(disk, get<uint64_t>(disk, at + 72) * kSector, kEntryCount * kEntrySize));
  put(disk, at + 16, uint32_t{0});
  put(disk, at + 16, crc(disk, at, 92));
}

void write_gpt(Bytes& disk, size_t lba, uint64_t entries_lba, const std::vector<GptPartition>& partitions) {
  const size_t at = lba * kSector;
  write(disk, at, "EFI PART");
  put(disk, at + 8, uint32_t{0x10000});
  put(disk, at + 12, uint32_t{92});
  put(disk, at + 24, uint64_t{lba});
  put(disk, at + 72, entries_lba);
  put(disk, at + 80, uint32_t{kEntryCount});
  put(disk, at + 84, uint32_t{kEntrySize});
  for (size_t i = 0; i < partitions.size(); ++i) {
    const size_t entry = entries_lba * kSector + i * kEntrySize;
    write(disk, entry, partitions[i].type);
    for (size_t b = 0; b < 16; ++b) put(disk, entry + 16 + b, static_cast<uint8_t>(0x10 * (i + 1) + b));
    put(disk, entry + 32, partitions[i].first);
    put(disk, entry + 40, partitions[i].last);
  }
  seal(disk, lba);
}

Bytes gpt_disk(const std::vector<GptPartition>& partitions) {
  Bytes disk(kSectors * kSector);
  protective_mbr(disk);
  write_gpt(disk, 1, 2, partitions);
  write_gpt(disk, kSectors - 1, kSectors - 33, partitions);
  return disk;
}

Bytes mbr_disk(std::initializer_list<uint8_t> types) {
  Bytes disk(kSectors * kSector);
  put(disk, 440, uint32_t{0xdeadbeef});
  size_t at = 446;
  uint32_t first = 64;
  for (const uint8_t type : types) {
    put(disk, at + 4, type);
    put(disk, at + 8, first);
    put(disk, at + 12, uint32_t{64});
    at += 16;
    first += 64;
  }
  put(disk, 510, uint16_t{0xaa55});
  return disk;
}

TEST(RootDevice, ABareFileSystemIsTheWholeDisk) {
  const std::vector<std::tuple<std::string, size_t, std::string_view, bool>> cases{
      {"xfs", 0, "XFSB", false},
      {"squashfs", 0, "hsqs", true},
      {"erofs", 1024, "\xe2\xe1\xf5\xe0", true},
      {"f2fs", 1024, "\x10\x20\xf5\xf2", false},
      {"btrfs", 0x10040, "_BHRfS_M", false},
  };
  for (const auto& [name, offset, magic, read_only] : cases) {
    Bytes disk(kSectors * kSector);
    write(disk, offset, magic);
    const RootDevice root = find(disk);
    EXPECT_EQ(root.root, "/dev/vda") << name;
    EXPECT_EQ(root.file_system, name);
    EXPECT_EQ(root.read_only, read_only) << name;
  }
}

TEST(RootDevice, TellsExt2Ext3AndExt4Apart) {
  const auto name = [](uint32_t compatible, uint32_t incompatible, uint32_t read_only) {
    Bytes disk(kSectors * kSector);
    write_ext(disk, 0, compatible, incompatible, read_only);
    return find(disk).file_system;
  };
  EXPECT_EQ(name(0x38, 0x2, 0x3), "ext2");
  EXPECT_EQ(name(0x3c, 0x2, 0x3), "ext3");
  EXPECT_EQ(name(0x3c, 0x2c2, 0x46b), "ext4");
  EXPECT_EQ(name(0, 0x8, 0), "") << "an external journal";
}

TEST(RootDevice, AFileSystemWinsOverTheRestsOfAPartitionTable) {
  Bytes disk = mbr_disk({0x83});
  write_ext(disk, 0, 0x3c, 0x2c2, 0x46b);
  EXPECT_EQ(find(disk).root, "/dev/vda");
}

TEST(RootDevice, GptRootTypeWinsOverLinuxFileSystems) {
  Bytes disk = gpt_disk({{kEspType, 64, 127}, {kLinuxType, 128, 191}, {kRootType, 192, 1000}});
  write_ext(disk, 192 * kSector, 0x3c, 0x2c2, 0x46b);
  const RootDevice root = find(disk);
  EXPECT_EQ(root.root, "PARTUUID=33323130-3534-3736-3839-3a3b3c3d3e3f");
  EXPECT_EQ(root.file_system, "ext4");
}

TEST(RootDevice, GptWithASingleLinuxFileSystem) {
  EXPECT_EQ(find(gpt_disk({{kEspType, 64, 127}, {kLinuxType, 128, 191}})).root,
            "PARTUUID=23222120-2524-2726-2829-2a2b2c2d2e2f");
}

TEST(RootDevice, GptWithTwoCandidatesIsNotGuessedAt) {
  EXPECT_EQ(find(gpt_disk({{kLinuxType, 64, 127}, {kLinuxType, 128, 191}})).root, "");
  EXPECT_EQ(find(gpt_disk({{kRootType, 64, 127}, {kRootType, 128, 191}, {kLinuxType, 192, 255}})).root, "");
  EXPECT_EQ(find(gpt_disk({{kEspType, 64, 127}})).root, "");
}

TEST(RootDevice, ADamagedGptIsReadFromItsBackup) {
  const std::vector<GptPartition> partitions{{kRootType, 64, 127}};
  for (const size_t damage : {kSector + 60, 2 * kSector + 33}) {  // header; entries
    Bytes disk = gpt_disk(partitions);
    disk[damage] ^= std::byte{1};
    EXPECT_NE(find(disk).root, "");
    disk[(kSectors - 1) * kSector + 60] ^= std::byte{1};
    EXPECT_EQ(find(disk).root, "") << "both are damaged";
  }
}

TEST(RootDevice, GptFieldsAreNotBelieved) {
  const auto with = [](size_t offset, auto v) {
    Bytes disk = gpt_disk({{kRootType, 64, 127}});
    write(disk, (kSectors - 1) * kSector, "no backup");
    put(disk, kSector + offset, v);
    put(disk, kSector + 16, uint32_t{0});
    const auto header_size = get<uint32_t>(disk, kSector + 12);
    if (header_size <= kSector) put(disk, kSector + 16, crc(disk, kSector, header_size));
    return find(disk).root;
  };
  EXPECT_NE(with(24, uint64_t{1}), "");
  EXPECT_EQ(with(24, uint64_t{2}), "") << "lies elsewhere than it says";
  EXPECT_EQ(with(12, uint32_t{0xffffffff}), "") << "header size";
  EXPECT_EQ(with(12, uint32_t{10}), "") << "header size";
  EXPECT_EQ(with(72, ~uint64_t{0}), "") << "entries past the end";
  EXPECT_EQ(with(72, ~uint64_t{0} / 512), "") << "entries past the end";
  EXPECT_EQ(with(80, ~uint32_t{0}), "") << "entry count";
  EXPECT_EQ(with(80, uint32_t{0}), "") << "entry count";
  EXPECT_EQ(with(84, ~uint32_t{0}), "") << "entry size";
  EXPECT_EQ(with(84, uint32_t{64}), "") << "entry size";
}

TEST(RootDevice, GptPartitionsOutsideTheDiskDoNotCount) {
  EXPECT_EQ(find(gpt_disk({{kRootType, 64, kSectors}})).root, "");
  EXPECT_EQ(find(gpt_disk({{kRootType, 127, 64}})).root, "");
  EXPECT_EQ(find(gpt_disk({{kRootType, 64, ~uint64_t{0}}})).root, "");
}

TEST(RootDevice, AGptWithoutAProtectiveMbrDoesNotCount) {
  Bytes disk = gpt_disk({{kRootType, 64, 127}});
  put(disk, 446 + 4, uint8_t{0});
  EXPECT_EQ(find(disk).root, "");
}

TEST(RootDevice, MbrWithASingleLinuxPartition) {
  EXPECT_EQ(find(mbr_disk({0x82, 0x83})).root, "PARTUUID=deadbeef-02");
  EXPECT_EQ(find(mbr_disk({0x83, 0x83})).root, "");
  EXPECT_EQ(find(mbr_disk({0x07})).root, "");
}

TEST(RootDevice, AnMbrPartitionOutsideTheDiskDoesNotCount) {
  Bytes disk = mbr_disk({0x83});
  put(disk, 446 + 12, uint32_t{kSectors});
  EXPECT_EQ(find(disk).root, "");
}

TEST(RootDevice, EmptyAndTinyDisksHaveNone) {
  for (const size_t size : {size_t{0}, size_t{1}, kSector, 2 * kSector, kSectors * kSector})
    EXPECT_EQ(find(Bytes(size)).root, "") << size;
}

TEST(RootDevice, ADiskThatCannotBeReadHasNone) {
  class Broken final : public ByteSource {
    uint64_t size() const override { return 1 << 30; }
    Result<void> read(uint64_t, std::span<std::byte>) const override { return fail(Errc::io, "broken"); }
  };
  EXPECT_EQ(find_root_device(Broken(), "/dev/vda").root, "");
}

}  // namespace
}  // namespace minivmm
