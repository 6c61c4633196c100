#include "boot/disk/gpt.h"

#include <gtest/gtest.h>

#include "boot/disk/gpt_format.h"
#include "tests/unit/boot/disk/gpt_builder.h"
#include "tests/unit/boot/disk/memory_disk.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

constexpr Guid kType = Guid::of("0fc63daf-8483-4772-8e79-3d69d8477de4");
constexpr Guid kId = Guid::of("7130c94a-213a-4e5a-8e26-6cce9662f132");

GptSpec two_partitions(uint32_t sector_size = 512) {
  return {.partitions = {{.number = 1, .type = kType, .id = kId, .name = "EFI-SYSTEM", .sectors = 8},
                         {.number = 3, .type = kType, .name = "USR-A", .attributes = 5, .sectors = 4}},
          .sector_size = sector_size,
          .spare_sectors = 16};
}

TEST(Guid, TextHasTheFirstThreeGroupsTurnedRound) {
  EXPECT_EQ(kId.text(), "7130c94a-213a-4e5a-8e26-6cce9662f132");
  EXPECT_EQ(kId.bytes[0], 0x4a);
  EXPECT_EQ(kId.bytes[8], 0x8e);
}

TEST(Gpt, NamesNumbersAndPlacesAreAsTheEntriesSay) {
  for (const uint32_t sector_size : {512U, 4096U}) {
    const auto gpt = Gpt::read(MemoryDisk(make_gpt_disk(two_partitions(sector_size))));
    ASSERT_TRUE(gpt) << sector_size;
    EXPECT_EQ(gpt->sector_size(), sector_size);
    EXPECT_EQ(gpt->disk().text(), "12345678-1234-1234-1234-123456789abc");
    ASSERT_EQ(gpt->partitions().size(), 2U);
    const GptPartition& efi = gpt->partitions()[0];
    EXPECT_EQ(efi.number, 1U);
    EXPECT_EQ(efi.name, "EFI-SYSTEM");
    EXPECT_EQ(efi.id.text(), "7130c94a-213a-4e5a-8e26-6cce9662f132");
    EXPECT_EQ(efi.size, uint64_t{8} * sector_size);
    const GptPartition& usr = gpt->partitions()[1];
    EXPECT_EQ(usr.number, 3U);
    EXPECT_EQ(usr.attributes, 5U);
    EXPECT_EQ(usr.offset, efi.offset + efi.size);
  }
}

TEST(Gpt, ANameInTheWholeOfUnicodeBecomesUtf8) {
  Bytes disk = make_gpt_disk(two_partitions());
  const size_t name = 2 * 512 + offsetof(GptEntry, name);
  for (size_t i = 0;
       const char16_t unit : {u'ä', u'€', char16_t{0xd83d}, char16_t{0xde00}, char16_t{0xd83d}, u'A'})
    put(disk, name + 2 * i++, unit);
  put(disk, name + 12, uint16_t{0});
  seal_gpt(disk, 1);
  const auto gpt = Gpt::read(MemoryDisk(disk));
  ASSERT_TRUE(gpt);
  EXPECT_EQ(gpt->partitions()[0].name,
            "ä€😀\xef\xbf\xbd"
            "A");
}

TEST(Gpt, ADamagedPrimaryIsReadFromTheBackup) {
  for (const size_t damage : {size_t{512 + 60}, size_t{1024 + 40}}) {  // header; entries
    Bytes disk = make_gpt_disk(two_partitions());
    disk[damage] ^= std::byte{1};
    const auto gpt = Gpt::read(MemoryDisk(disk));
    ASSERT_TRUE(gpt) << damage;
    EXPECT_TRUE(gpt->from_backup());
    EXPECT_EQ(gpt->partitions().size(), 2U);
    disk[disk.size() - 512 + 60] ^= std::byte{1};
    EXPECT_FALSE(Gpt::read(MemoryDisk(disk)));
  }
}

TEST(Gpt, DisksThatAreTooSmallHaveNone) {
  const Bytes disk = make_gpt_disk(two_partitions());
  for (const size_t size : {0U, 1U, 511U, 512U, 513U, 1023U, 1024U, 2048U}) {
    const Bytes part(disk.begin(), disk.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(Gpt::read(MemoryDisk(part))) << size;
  }
}

TEST(Gpt, ChangedAttributesAreInBothTables) {
  MemoryDisk disk(make_gpt_disk(two_partitions()));
  auto gpt = Gpt::read(disk);
  ASSERT_TRUE(gpt);
  ASSERT_TRUE(gpt->write_attributes(disk, 3, 77));
  EXPECT_EQ(gpt->partitions()[1].attributes, 77U);
  EXPECT_EQ(Gpt::read(disk)->partitions()[1].attributes, 77U);
  disk.bytes[512 + 60] ^= std::byte{1};
  const auto backup = Gpt::read(disk);
  ASSERT_TRUE(backup);
  EXPECT_TRUE(backup->from_backup());
  EXPECT_EQ(backup->partitions()[1].attributes, 77U);
}

TEST(Gpt, NothingButTheAttributesChanges) {
  const Bytes before = make_gpt_disk(two_partitions());
  MemoryDisk disk(before);
  auto gpt = Gpt::read(disk);
  ASSERT_TRUE(gpt->write_attributes(disk, 3, 77));
  ASSERT_TRUE(gpt->write_attributes(disk, 3, 5));
  EXPECT_EQ(disk.bytes, before);
}

TEST(Gpt, WritingMendsTheDamagedTable) {
  for (const size_t damage : {size_t{512 + 60}, size_t{0}}) {  // the primary's header; the backup's
    const Bytes whole = make_gpt_disk(two_partitions());
    MemoryDisk disk(whole);
    disk.bytes[damage != 0 ? damage : whole.size() - 500] ^= std::byte{1};
    auto gpt = Gpt::read(disk);
    ASSERT_TRUE(gpt);
    ASSERT_TRUE(gpt->write_attributes(disk, 3, 5));
    EXPECT_EQ(disk.bytes, whole);
  }
}

TEST(Gpt, ATableIsWholeWhereverThePowerGoes) {
  for (const bool damaged : {false, true}) {
    for (size_t power = 0; power < 66; ++power) {
      MemoryDisk disk(make_gpt_disk(two_partitions()));
      if (damaged) disk.bytes[512 + 60] ^= std::byte{1};
      auto gpt = Gpt::read(disk);
      disk.power = power;
      EXPECT_FALSE(gpt->write_attributes(disk, 3, 77));
      const auto after = Gpt::read(disk);
      ASSERT_TRUE(after) << power;
      ASSERT_EQ(after->partitions().size(), 2U);
      const uint64_t now = after->partitions()[1].attributes;
      EXPECT_TRUE(now == 5 || now == 77) << now;
    }
  }
}

TEST(Gpt, ABackupOutsideTheDiskIsNotWritten) {
  Bytes cut = make_gpt_disk(two_partitions());
  cut.resize(cut.size() - 512);
  MemoryDisk disk(cut);
  auto gpt = Gpt::read(disk);
  ASSERT_TRUE(gpt);
  EXPECT_EQ(gpt->write_attributes(disk, 3, 77).error().code, Errc::unsupported);
  EXPECT_EQ(disk.bytes, cut);
}

TEST(Gpt, ABackupOverAPartitionIsNotWritten) {
  Bytes bytes = make_gpt_disk(two_partitions());
  put(bytes, 512 + offsetof(GptHeader, alternate_lba), uint64_t{40});
  seal_gpt(bytes, 1);
  MemoryDisk disk(bytes);
  auto gpt = Gpt::read(disk);
  ASSERT_TRUE(gpt);
  EXPECT_FALSE(gpt->write_attributes(disk, 3, 77));
  EXPECT_EQ(disk.bytes, bytes);
}

}  // namespace
}  // namespace minivmm
