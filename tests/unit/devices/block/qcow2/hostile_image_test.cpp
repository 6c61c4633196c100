// Images that contradict themselves: errors, and no damage beyond.
#include <array>
#include <fstream>

#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

class HostileImage : public ImageTest {
 protected:
  static constexpr uint64_t kCluster = 4096;
  static constexpr uint64_t kSize = 1 << 20;

  // The first half is written.
  void SetUp() override {
    create("disk.qcow2", kSize, "cluster_size=4096");
    ASSERT_EQ(shell(fmt::format("qemu-io -c 'write -P 7 0 {}' disk.qcow2", kSize / 2)), 0);
    const auto image = open("disk.qcow2", false);
    header_ = image->header();
    l2_ = get(header_.l1_offset) & kOffsetMask;
  }
  uint64_t get(uint64_t offset) const {
    std::array<std::byte, 8> bytes{};
    std::ifstream file(path("disk.qcow2"), std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(reinterpret_cast<char*>(bytes.data()), 8);
    return load_be64(bytes.data());
  }
  void put(uint64_t offset, uint64_t value) const {
    std::array<std::byte, 8> bytes{};
    store_be64(bytes.data(), value);
    std::fstream file(path("disk.qcow2"), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset));
    file.write(reinterpret_cast<const char*>(bytes.data()), 8);
  }
  uint64_t incompatible() const { return get(72); }

  // Opens for writing, and writes to the second cluster's second sector.
  Errc write_fails() {
    const auto image = open("disk.qcow2");
    EXPECT_NE(image, nullptr) << why_;
    const auto done = write(*image, kCluster + 512, Bytes(512, std::byte{9}));
    EXPECT_FALSE(done);
    const auto again = write(*image, kSize - 512, Bytes(512, std::byte{9}));
    EXPECT_FALSE(again);  // it takes no more writes
    static_cast<void>(close(*image));
    return done ? Errc{} : done.error().code;
  }

  Header header_;
  uint64_t l2_ = 0;
};

TEST_F(HostileImage, WritesNoDataOverMetadata) {
  for (const uint64_t target : {header_.l1_offset, header_.refcount_table_offset, l2_}) {
    SetUp();
    const uint64_t before = get(target);
    put(l2_ + 8, target | kCopied);
    EXPECT_EQ(write_fails(), Errc::corrupt);
    EXPECT_EQ(get(target), before);
    EXPECT_NE(incompatible() & kIncompatCorrupt, 0U);
    EXPECT_EQ(open("disk.qcow2"), nullptr);
    EXPECT_EQ(error_, Errc::corrupt);
    EXPECT_NE(open("disk.qcow2", false), nullptr) << why_;  // reading goes on
  }
}

TEST_F(HostileImage, RefusesAnL2EntryPastTheEndOfTheFile) {
  put(l2_ + 8, (uint64_t{1} << 40) | kCopied);
  {
    const auto image = open("disk.qcow2", false);
    EXPECT_EQ(read(*image, kCluster, 512).error().code, Errc::corrupt);
    EXPECT_TRUE(read(*image, 0, kCluster));
    EXPECT_TRUE(read(*image, 2 * kCluster, kCluster));
  }
  EXPECT_EQ(write_fails(), Errc::corrupt);
}

TEST_F(HostileImage, RefusesAnL2EntryBesideTheGrid) {
  put(l2_ + 8, get(l2_ + 8) + 512);
  {
    const auto image = open("disk.qcow2", false);
    EXPECT_EQ(read(*image, kCluster, 512).error().code, Errc::corrupt);
  }
  EXPECT_EQ(write_fails(), Errc::corrupt);
}

TEST_F(HostileImage, RefusesAnL1EntryThatPointsNowhere) {
  for (const uint64_t entry : {(uint64_t{1} << 45) | kCopied, (l2_ + 512) | kCopied}) {
    SetUp();
    put(header_.l1_offset, entry);
    {
      const auto image = open("disk.qcow2", false);
      EXPECT_EQ(read(*image, 0, 512).error().code, Errc::corrupt);
    }
    EXPECT_EQ(write_fails(), Errc::corrupt);
  }
}

TEST_F(HostileImage, IsNotOpenedForWritingWhereTwoTablesAreOne) {
  put(header_.l1_offset + 0, header_.refcount_table_offset | kCopied);
  EXPECT_EQ(open("disk.qcow2"), nullptr);
  EXPECT_EQ(error_, Errc::corrupt);
  EXPECT_FALSE(why_.empty());
}

TEST_F(HostileImage, RefusesARefcountBlockThatPointsNowhere) {
  put(header_.refcount_table_offset, uint64_t{1} << 44);
  const auto image = open("disk.qcow2");
  ASSERT_NE(image, nullptr) << why_;
  EXPECT_EQ(write(*image, kSize - kCluster, Bytes(512)).error().code, Errc::corrupt);
}

TEST_F(HostileImage, AllocatesNoMetadataThatIsCountedAsFree) {
  const uint64_t block = get(header_.refcount_table_offset) & kOffsetMask;
  put(block, 0);  // the first four counts: the header and tables
  const auto image = open("disk.qcow2");
  ASSERT_NE(image, nullptr) << why_;
  EXPECT_EQ(write(*image, kSize - kCluster, Bytes(512, std::byte{1})).error().code, Errc::corrupt);
  EXPECT_NE(incompatible() & kIncompatCorrupt, 0U);
}

TEST_F(HostileImage, FreesNoMetadataThatADataEntryNames) {
  put(l2_ + 8, header_.l1_offset);  // not COPIED: it is to be copied, and given back
  {
    const auto image = open("disk.qcow2");
    ASSERT_NE(image, nullptr) << why_;
    ASSERT_TRUE(write(*image, kCluster, Bytes(kCluster, std::byte{1})));
    static_cast<void>(flush(*image));  // which finds it
    EXPECT_EQ(write(*image, 0, Bytes(512)).error().code, Errc::corrupt);
  }
  EXPECT_NE(incompatible() & kIncompatCorrupt, 0U);
}

TEST_F(HostileImage, TakesNoZeroFlagInVersion2) {
  create("disk.qcow2", kSize, "compat=0.10,cluster_size=4096");
  ASSERT_EQ(shell("qemu-io -c 'write -P 7 0 64k' disk.qcow2"), 0);
  header_ = open("disk.qcow2", false)->header();
  l2_ = get(header_.l1_offset) & kOffsetMask;
  put(l2_, get(l2_) | kZero);
  const auto image = open("disk.qcow2", false);
  EXPECT_EQ(read(*image, 0, 512).error().code, Errc::corrupt);
}

}  // namespace
}  // namespace minivmm::qcow2::test
