#include "boot/disk/btrfs.h"

#include <gtest/gtest.h>

#include "tests/unit/boot/disk/btrfs_builder.h"
#include "tests/unit/boot/disk/memory_disk.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

std::string read(const Bytes& image, uint64_t most = 1 << 20) {
  const MemoryDisk disk(image);
  const auto reader = BtrfsReader::open(disk);
  if (!reader) return reader.error().what;
  const auto bytes = (*reader)->read_file("grub.cfg", most);
  if (!bytes) return bytes.error().what;
  return {reinterpret_cast<const char*>(bytes->data()), bytes->size()};
}

std::string text() {
  std::string out;
  for (int i = 0; i < 3000; ++i) out += "set linux_append=\"" + std::to_string(i) + "\"\n";
  return out;
}

TEST(Btrfs, ExtentsOfEachKindAreRead) {
  using enum BtrfsCompression;
  const std::string small = "set oem_id=\"qemu\"\nset linux_append=\"aaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n";
  for (const BtrfsCompression compression : {none, zlib, zstd}) {
    EXPECT_EQ(read(make_btrfs("grub.cfg", {small, compression, true})), small);
    EXPECT_EQ(read(make_btrfs("grub.cfg", {small, compression, true}), 10), small.substr(0, 10));
    EXPECT_TRUE(read(make_btrfs("grub.cfg", {text(), compression, false})) == text());
    EXPECT_TRUE(read(make_btrfs("grub.cfg", {text(), compression, false}), 5000) == text().substr(0, 5000));
  }
  EXPECT_EQ(read(make_btrfs("grub.cf", {small, none, true})), "no such file");
}

TEST(Btrfs, LzoIsSaidNotToBeRead) {
  EXPECT_EQ(read(make_btrfs("grub.cfg", {"x", BtrfsCompression::lzo, true})),
            "a btrfs file that is compressed neither with zlib nor with zstd");
}

TEST(Btrfs, AnExtentThatUnpacksToMoreThanItSaysIsRefused) {
  for (const auto compression : {BtrfsCompression::zlib, BtrfsCompression::zstd}) {
    EXPECT_EQ(read(make_btrfs("grub.cfg", {text(), compression, false, 100})),
              "a btrfs extent that cannot be unpacked");
    EXPECT_EQ(read(make_btrfs("grub.cfg", {text(), compression, false, uint64_t{1} << 40})),
              "a compressed btrfs extent that is too large");
  }
}

TEST(Btrfs, TreesThatLoopOrLeaveAreRefused) {
  const auto with = [](size_t at, auto v) {
    Bytes image = make_btrfs("grub.cfg", {"x", BtrfsCompression::none, true});
    put(image, at, v);
    return read(image);
  };
  EXPECT_EQ(with(0x10050, uint64_t{1} << 30), "a btrfs address outside every chunk");
  EXPECT_EQ(with(0x10050, ~uint64_t{0}), "a btrfs address outside every chunk");
  EXPECT_EQ(with(kBtrfsFsTree + 0x30, uint64_t{0}), "a btrfs tree that contradicts itself");
  EXPECT_EQ(with(kBtrfsFsTree + 0x60, ~uint32_t{0}), "a btrfs leaf that contradicts itself");
  EXPECT_EQ(with(kBtrfsFsTree + 0x64, uint8_t{9}), "a btrfs tree that contradicts itself");
  EXPECT_EQ(with(kBtrfsFsTree + 101 + 17, ~uint32_t{0}), "a btrfs item outside its leaf");
  Bytes loop = make_btrfs("grub.cfg", {"x", BtrfsCompression::none, true});
  std::fill_n(loop.begin() + kBtrfsFsTree + 101, 33, std::byte{0});
  put(loop, kBtrfsFsTree + 0x60, uint32_t{1});
  put(loop, kBtrfsFsTree + 0x64, uint8_t{1});
  put(loop, kBtrfsFsTree + 101 + 17, uint64_t{kBtrfsFsTree});
  EXPECT_EQ(read(loop), "a btrfs tree that contradicts itself");
}

TEST(Btrfs, WhatIsNotReadHereIsNamed) {
  const auto with = [](size_t at, auto v) {
    Bytes image = make_btrfs("grub.cfg", {"x", BtrfsCompression::none, true});
    put(image, 0x10000 + at, v);
    return read(image);
  };
  EXPECT_EQ(with(0x40, uint8_t{0}), "no btrfs");
  EXPECT_EQ(with(0x88, uint64_t{2}), "a btrfs of several devices");
  EXPECT_EQ(with(0xbc, uint64_t{1} << 40), "a btrfs with features that are not read here");
  EXPECT_EQ(with(0x94, uint32_t{4097}), "a btrfs superblock that contradicts itself");
  EXPECT_EQ(with(0xa0, uint32_t{2049}), "a btrfs superblock that contradicts itself");
  EXPECT_EQ(with(0x32b + 17 + 24, uint64_t{8 | 2}), "a btrfs whose bytes are spread over devices");
}

}  // namespace
}  // namespace minivmm
