#include <gtest/gtest.h>

#include <array>

#include "devices/block/qcow2/format.h"
#include "devices/block/qcow2/l2_entry_check.h"

namespace minivmm::qcow2 {
namespace {

TEST(Qcow2Refcounts, OfEveryWidthKeepTheirValuesAndTheirNeighbours) {
  for (unsigned order = 0; order <= 6; ++order) {
    Header h;
    h.refcount_order = order;
    std::array<std::byte, 512> block{};
    const uint64_t entries = 512 * 8 / h.refcount_bits();
    const auto value = [&](uint64_t i) { return (i * 0x9e3779b97f4a7c15 >> 7) & h.max_refcount(); };
    for (uint64_t i = 0; i < entries; ++i) store_refcount(block, order, i, h.max_refcount());
    for (uint64_t i = 0; i < entries; ++i) store_refcount(block, order, i, value(i));
    for (uint64_t i = 0; i < entries; ++i)
      ASSERT_EQ(load_refcount(block, order, i), value(i)) << order << ' ' << i;
  }
}

TEST(Qcow2Refcounts, LieAsTheSpecificationSays) {
  std::array<std::byte, 512> block{};
  store_refcount(block, 0, 1, 1);
  EXPECT_EQ(block[0], std::byte{2});  // the low bits come first
  block = {};
  store_refcount(block, 2, 3, 0xa);
  EXPECT_EQ(block[1], std::byte{0xa0});
  block = {};
  store_refcount(block, 4, 1, 0x1234);
  EXPECT_EQ(block[2], std::byte{0x12});  // big-endian
  EXPECT_EQ(block[3], std::byte{0x34});
}

TEST(Qcow2Compressed, DescriptorsComeBack) {
  for (unsigned bits = kMinClusterBits; bits <= kMaxClusterBits; ++bits) {
    const uint64_t cluster = uint64_t{1} << bits;
    for (const uint64_t offset : {cluster, cluster + 1, cluster + 511, 3 * cluster + 77}) {
      for (const uint64_t bytes : {uint64_t{1}, uint64_t{435}, cluster - 1, cluster}) {
        if ((offset % 512 + bytes - 1) / 512 >= cluster / 256) continue;  // more sectors than it can say
        const uint64_t entry = encode_compressed({offset, bytes}, bits);
        EXPECT_NE(entry & kCompressed, 0U);
        EXPECT_EQ(entry & kCopied, 0U);
        const CompressedRun run = decode_compressed(entry, bits);
        EXPECT_EQ(run.offset, offset);
        EXPECT_GE(run.bytes, bytes);
        EXPECT_EQ((run.offset + run.bytes) % 512, 0U);
        EXPECT_LT(run.bytes, bytes + 512);
      }
    }
  }
}

TEST(Qcow2Snapshots, ComeBackWithTheirExtraData) {
  std::vector<Snapshot> list(2);
  list[0] = {.l1_offset = 0x40000, .l1_size = 3, .id = "1", .name = "before", .seconds = 5, .extra = {}};
  list[1] = {.l1_offset = 0x50000, .l1_size = 4, .id = "2", .name = "", .vm_state_bytes = 9, .extra = {}};
  list[1].extra.resize(24);
  store_be64(list[1].extra.data(), uint64_t{5} << 32);
  store_be64(list[1].extra.data() + 8, 10 << 20);
  const auto table = encode_snapshots(list);
  uint64_t used = 0;
  const auto back = decode_snapshots(table, 2, used);
  ASSERT_TRUE(back);
  EXPECT_EQ(used, table.size());
  EXPECT_EQ((*back)[0].name, "before");
  EXPECT_EQ((*back)[0].l1_size, 3U);
  EXPECT_EQ((*back)[0].disk_size(), std::nullopt);
  EXPECT_EQ((*back)[1].disk_size(), 10U << 20);
  EXPECT_EQ((*back)[1].vm_state_size(), uint64_t{5} << 32);
  EXPECT_EQ(encode_snapshots(*back), table);
}

TEST(Qcow2Snapshots, CutShortAnywhereAreAnErrorThatMoreBytesMayMend) {
  const std::vector<Snapshot> list{
      {.l1_offset = 0x40000, .l1_size = 3, .id = "12", .name = "name", .extra = {}}};
  const auto table = encode_snapshots(list);
  for (size_t length = 0; length < 46; ++length) {
    uint64_t used = 0;
    const auto back = decode_snapshots(std::span(table).first(length), 1, used);
    ASSERT_FALSE(back) << length;
    EXPECT_EQ(back.error().code, Errc::out_of_range);
  }
}

TEST(Qcow2Snapshots, OfHugeExtraDataOrL1TablesAreRefused) {
  auto table = encode_snapshots(std::vector<Snapshot>(1));
  uint64_t used = 0;
  store_be32(table.data() + 36, 0xffffffff);
  ASSERT_FALSE(decode_snapshots(table, 1, used));
  EXPECT_EQ(decode_snapshots(table, 1, used).error().code, Errc::too_large);
  store_be32(table.data() + 36, 0);
  store_be32(table.data() + 8, 0xffffffff);
  ASSERT_FALSE(decode_snapshots(table, 1, used));
  EXPECT_EQ(decode_snapshots(table, 1, used).error().code, Errc::too_large);
}

class Qcow2Entry : public testing::Test {
 protected:
  static constexpr uint64_t kFile = 10 << 16;
  EntryVerdict judge(uint64_t entry, uint64_t bitmap = 0, uint64_t guest_offset = 0) const {
    return judge_l2_entry(h_, kFile, entry, bitmap, guest_offset);
  }
  Header h_;
};

TEST_F(Qcow2Entry, OfEachGoodKindIsFine) {
  for (const uint64_t entry : {uint64_t{0}, kZero, kCopied | 5 << 16, kCopied | 5 << 16 | kZero})
    EXPECT_EQ(judge(entry).problem, nullptr) << entry;
  EXPECT_FALSE(judge(kZero).allocated);
  EXPECT_TRUE(judge(kCopied | 5 << 16).allocated);
  const EntryVerdict v = judge(encode_compressed({0x50010, 700}, 16));
  EXPECT_EQ(v.problem, nullptr);
  EXPECT_TRUE(v.compressed);
  EXPECT_EQ(v.offset, 0x50010U);
}

TEST_F(Qcow2Entry, ThatLeadsNowhereBecomesZeroes) {
  for (const uint64_t entry : {kCopied | 0x50200, kCopied | kFile, kCopied | kOffsetMask,
                               encode_compressed({kFile, 10}, 16), encode_compressed({10, 10}, 16)}) {
    const EntryVerdict v = judge(entry);
    EXPECT_NE(v.problem, nullptr) << entry;
    EXPECT_TRUE(v.loses_data);
    EXPECT_EQ(v.bytes, 0U);
    EXPECT_EQ(v.entry, kZero);
  }
  h_.version = 2;
  EXPECT_EQ(judge(kCopied | kFile).entry, 0U);
}

TEST_F(Qcow2Entry, KeepsItsDataWhereOnlyReservedBitsAreWrong) {
  const EntryVerdict v = judge(kCopied | 5 << 16 | 1 << 4);
  EXPECT_NE(v.problem, nullptr);
  EXPECT_EQ(v.entry, kCopied | 5 << 16);
  EXPECT_FALSE(v.loses_data);
  h_.version = 2;  // has no zero flag
  EXPECT_EQ(judge(kCopied | 5 << 16 | kZero).entry, kCopied | 5 << 16);
}

TEST_F(Qcow2Entry, SubclustersAreAllocatedOrZeroButNotBoth) {
  h_.incompatible = kIncompatExtendedL2;
  EXPECT_EQ(judge(kCopied | 5 << 16, 0xffff00000000ffff).problem, nullptr);
  const EntryVerdict both = judge(kCopied | 5 << 16, 0x300000003);
  EXPECT_NE(both.problem, nullptr);
  EXPECT_EQ(both.bitmap, 0x300000000U);
  const EntryVerdict nowhere = judge(0, 1);
  EXPECT_NE(nowhere.problem, nullptr);
  EXPECT_EQ(nowhere.bitmap, 0x100000000U);
  EXPECT_NE(judge(kCopied | 5 << 16 | kZero, 0).problem, nullptr);
}

TEST_F(Qcow2Entry, InAnExternalDataFileIsAtItsGuestOffset) {
  h_.incompatible = kIncompatDataFile;
  EXPECT_EQ(judge(kCopied, 0, 0).problem, nullptr);
  EXPECT_TRUE(judge(kCopied, 0, 0).allocated);
  EXPECT_EQ(judge(kCopied | 3 << 16, 0, 3 << 16).problem, nullptr);
  const EntryVerdict v = judge(kCopied | 3 << 16, 0, 4 << 16);
  EXPECT_NE(v.problem, nullptr);
  EXPECT_EQ(v.entry, kCopied | 4 << 16);
  EXPECT_TRUE(judge(encode_compressed({0x50010, 700}, 16)).loses_data);
}

}  // namespace
}  // namespace minivmm::qcow2
