#include "boot/disk/fat.h"

#include <gtest/gtest.h>

#include "tests/unit/boot/disk/fat_builder.h"
#include "tests/unit/boot/disk/memory_disk.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)
using Kind = FatBuilder::Kind;

struct Volume {
  explicit Volume(Bytes bytes) : disk(std::move(bytes)), opened(FatReader::open(disk)) {}
  std::string read(std::string_view path, uint64_t most = 1 << 20) const {
    if (!opened) return opened.error().what;
    const auto bytes = (*opened)->read_file(path, most);
    if (!bytes) return bytes.error().what;
    return {reinterpret_cast<const char*>(bytes->data()), bytes->size()};
  }
  MemoryDisk disk;
  Result<std::unique_ptr<FatReader>> opened;
};

std::string text(size_t size) {
  std::string out(size, ' ');
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<char>('a' + i * 7 % 26 + i / 512 % 3);
  return out;
}

class FatOfEachKind : public ::testing::TestWithParam<FatBuilder::Options> {};

TEST_P(FatOfEachKind, FilesAreReadWhole) {
  FatBuilder builder(GetParam());
  builder.add("flatcar/vmlinuz-a", text(20000));
  builder.add("flatcar/first_boot", "x");
  builder.add("EMPTY", "");
  const Volume volume(builder.image);
  EXPECT_TRUE(volume.read("flatcar/vmlinuz-a") == text(20000));
  EXPECT_EQ(volume.read("/flatcar/first_boot"), "x");
  EXPECT_EQ(volume.read("empty"), "");
  EXPECT_TRUE(volume.read("flatcar/vmlinuz-a", 1000) == text(20000).substr(0, 1000));
  ASSERT_TRUE(volume.opened);
  EXPECT_EQ((*volume.opened)->file_size("flatcar/vmlinuz-a").value(), 20000U);
}

TEST_P(FatOfEachKind, NamesAreFoundInAnyCase) {
  FatBuilder builder(GetParam());
  builder.add("Some long folder name/and a file's name that is longer still.txt", "found");
  const Volume volume(builder.image);
  EXPECT_EQ(volume.read("some LONG folder name/And a file's name that is longer still.TXT"), "found");
  EXPECT_EQ(volume.read("some LONG folder name/and a file's name"), "no such file");
  EXPECT_EQ(volume.read("some LONG folder name"), "a folder where a file is wanted");
}

TEST_P(FatOfEachKind, AChainThatLoopsOrLeavesIsRefused) {
  FatBuilder builder(GetParam());
  builder.add("file", text(40000));
  const uint32_t first = builder.first_cluster("file");
  const uint32_t second = builder.next(first);
  const auto with_second = [&](uint32_t next) {
    FatBuilder broken = builder;
    broken.set_next(second, next);
    return Volume(broken.image).read("file").substr(0, 100);
  };
  EXPECT_EQ(with_second(0), "a file whose FAT chain is too short");
  EXPECT_EQ(with_second(1), "a FAT chain that leads nowhere");
  EXPECT_EQ(with_second(GetParam().clusters + 2), "a FAT chain that leads nowhere");
  // A file's size bounds its walk; a folder's walk is bounded by how many clusters there are.
  FatBuilder loop = builder;
  loop.add("folder/file", "x");
  loop.set_next(loop.first_cluster("folder"), loop.first_cluster("folder"));
  EXPECT_FALSE(Volume(loop.image).read("folder/other").empty()) << "it ends";
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, FatOfEachKind,
    ::testing::Values(FatBuilder::Options{.kind = Kind::fat12},
                      FatBuilder::Options{.kind = Kind::fat12, .cluster_sectors = 4},
                      FatBuilder::Options{.kind = Kind::fat12, .scattered = true},
                      FatBuilder::Options{.kind = Kind::fat16, .clusters = 5000},
                      FatBuilder::Options{.kind = Kind::fat32},
                      FatBuilder::Options{.kind = Kind::fat32, .clusters = 70000},
                      FatBuilder::Options{.kind = Kind::fat32, .cluster_sectors = 8, .scattered = true}));

TEST(Fat, ALongNameWithoutItsShortEntryIsNotTakenForAnother) {
  FatBuilder builder;
  builder.add("vmlinuz-aaaaaaaaaa-b", "kernel");
  for (const size_t at : {size_t{0}, size_t{13}}) {  // the part's number; its checksum
    Bytes image = builder.image;
    const auto found = std::ranges::search(image, std::as_bytes(std::span("v\0m\0l\0i\0n", 9)));
    ASSERT_FALSE(found.empty());
    *(found.begin() - 1 + static_cast<std::ptrdiff_t>(at)) ^= std::byte{2};
    EXPECT_EQ(Volume(image).read("vmlinuz-aaaaaaaaaa-b"), "no such file");
  }
}

TEST(Fat, WhatIsNoFatIsSaidToBeNone) {
  EXPECT_EQ(Volume(Bytes(4096)).read("x"), "no FAT file system");
  EXPECT_FALSE(Volume(Bytes(10)).opened);
  const Bytes good = FatBuilder().image;
  const auto with = [&good](size_t offset, auto v) {
    Bytes image = good;
    put(image, offset, v);
    return Volume(image).read("x");
  };
  EXPECT_EQ(with(11, uint16_t{0}), "no FAT file system") << "sector size";
  EXPECT_EQ(with(11, uint16_t{513}), "no FAT file system") << "sector size";
  EXPECT_EQ(with(13, uint8_t{0}), "no FAT file system") << "cluster size";
  EXPECT_EQ(with(13, uint8_t{3}), "no FAT file system") << "cluster size";
  EXPECT_EQ(with(14, uint16_t{0}), "no FAT file system") << "reserved sectors";
  EXPECT_EQ(with(16, uint8_t{0}), "no FAT file system") << "number of FATs";
  EXPECT_EQ(with(32, uint32_t{20}), "no FAT file system") << "sectors";
  EXPECT_EQ(with(36, ~uint32_t{0}), "no FAT file system") << "FAT size";
}

TEST(Fat, AVolumeLargerThanItsPartitionEndsWithIt) {
  FatBuilder builder;
  builder.add("FILE", text(8000));
  Bytes image = builder.image;
  put(image, 32, ~uint32_t{0});
  EXPECT_TRUE(Volume(image).read("FILE") == text(8000));
  image.resize(image.size() - (512 - 10) * 512);
  EXPECT_FALSE(Volume(image).read("FILE") == text(8000));
}

TEST(Fat, AFileThatClaimsToBeLargerThanTheVolumeIsNotAllocated) {
  FatBuilder builder;
  builder.add("FILE", text(8000));
  const auto found = std::ranges::search(builder.image, std::as_bytes(std::span("FILE       ", 11)));
  put(builder.image, static_cast<size_t>(found.begin() - builder.image.begin()) + 28, ~uint32_t{0});
  EXPECT_EQ(Volume(builder.image).read("FILE", ~uint64_t{0}), "a file larger than its file system");
  EXPECT_TRUE(Volume(builder.image).read("FILE", 8000) == text(8000));
}

}  // namespace
}  // namespace minivmm
