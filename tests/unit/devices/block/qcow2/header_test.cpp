#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {
namespace {

constexpr uint64_t kFileBytes = 1 << 20;

Header good_header() {
  Header h;
  h.size = 10 << 20;
  h.l1_size = 1;
  h.l1_offset = 0x30000;
  h.refcount_table_offset = 0x10000;
  h.refcount_table_clusters = 1;
  h.header_bytes = 112;
  return h;
}

std::vector<std::byte> encoded(const Header& h) {
  auto bytes = encode_header(h);
  EXPECT_TRUE(bytes);
  if (!bytes) return {};
  bytes->resize(h.cluster_size());
  return std::move(*bytes);
}

TEST(Qcow2Header, ComesBackAsItWasWritten) {
  Header h = good_header();
  h.snapshots = 2;
  h.snapshots_offset = 0x50000;
  h.compatible = kCompatLazyRefcounts;
  h.refcount_order = 6;
  h.compression = Compression::zstd;
  h.incompatible = kIncompatCompression;
  h.backing_file = "base.img";
  const std::string format = "raw";
  set_extension(h, kExtensionBackingFormat, std::as_bytes(std::span(format)));
  std::string why;
  const auto back = decode_header(encoded(h), kFileBytes, why);
  ASSERT_TRUE(back) << why;
  EXPECT_EQ(back->size, h.size);
  EXPECT_EQ(back->snapshots, 2U);
  EXPECT_EQ(back->snapshots_offset, 0x50000U);
  EXPECT_EQ(back->compatible, kCompatLazyRefcounts);
  EXPECT_EQ(back->refcount_bits(), 64U);
  EXPECT_EQ(back->compression, Compression::zstd);
  EXPECT_EQ(back->backing_file, "base.img");
  EXPECT_EQ(back->backing_format(), "raw");
  EXPECT_EQ(encoded(*back), encoded(h));
}

TEST(Qcow2Header, Version2HasItsFixedMeanings) {
  Header h = good_header();
  h.version = 2;
  std::string why;
  const auto back = decode_header(encoded(h), kFileBytes, why);
  ASSERT_TRUE(back) << why;
  EXPECT_EQ(back->header_bytes, 72U);
  EXPECT_EQ(back->refcount_bits(), 16U);
  EXPECT_EQ(back->incompatible, 0U);
}

TEST(Qcow2Header, UnknownExtensionsAndFieldsAreKept) {
  Header h = good_header();
  h.extensions.push_back({0x12345678, std::vector<std::byte>(13, std::byte{7})});
  h.additional.assign(31, std::byte{0});
  h.additional[20] = std::byte{9};
  std::string why;
  const auto back = decode_header(encoded(h), kFileBytes, why);
  ASSERT_TRUE(back) << why;
  EXPECT_EQ(back->header_bytes, 136U);
  ASSERT_NE(find_extension(*back, 0x12345678), nullptr);
  EXPECT_EQ(find_extension(*back, 0x12345678)->data, h.extensions[0].data);
  EXPECT_EQ(back->additional, h.additional);
  EXPECT_EQ(encoded(*back), encoded(h));
}

TEST(Qcow2Header, BitmapsWithoutTheirExtensionAreNotVouchedFor) {
  Header h = good_header();
  h.autoclear = kAutoclearBitmaps;
  std::string why;
  const auto back = decode_header(encoded(h), kFileBytes, why);
  ASSERT_TRUE(back) << why;
  EXPECT_EQ(back->autoclear, 0U);
}

TEST(Qcow2Header, NamesAnUnknownFeatureFromTheImagesOwnTable) {
  Header h = good_header();
  h.incompatible = uint64_t{1} << 40 | uint64_t{1} << 41;
  std::vector<std::byte> names(48);
  names[1] = std::byte{40};
  std::ranges::copy(std::as_bytes(std::span("time\ntravel", 11)), names.begin() + 2);
  set_extension(h, kExtensionFeatureNames, names);
  std::string why;
  const auto back = decode_header(encoded(h), kFileBytes, why);
  ASSERT_FALSE(back);
  EXPECT_EQ(back.error().code, Errc::unsupported);
  EXPECT_NE(why.find("'time?travel' (incompatible bit 40)"), std::string::npos) << why;
  EXPECT_NE(why.find("without a name (incompatible bit 41)"), std::string::npos) << why;
}

TEST(Qcow2Header, LetsAMisplacedRefcountTableThroughForRepairOnly) {
  Header h = good_header();
  h.refcount_table_offset = kFileBytes;
  std::string why;
  EXPECT_FALSE(decode_header(encoded(h), kFileBytes, why));
  const auto back = decode_header(encoded(h), kFileBytes, why, ForRepair::yes);
  ASSERT_TRUE(back) << why;
  EXPECT_EQ(back->refcount_table_clusters, 0U);
}

TEST(Qcow2Header, IsTooLargeForItsCluster) {
  Header h = good_header();
  h.cluster_bits = 9;
  h.backing_file.assign(500, 'x');
  const auto bytes = encode_header(h);
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, Errc::too_large);
}

TEST(Qcow2Header, RefusesEveryLengthTooShortForIt) {
  const auto whole = encoded(good_header());
  for (size_t length = 0; length < 112; ++length) {
    std::string why;
    EXPECT_FALSE(decode_header(std::span(whole).first(length), length, why)) << length;
    EXPECT_FALSE(why.empty());
  }
}

struct Refused {
  const char* name;
  size_t offset;
  unsigned width;  // bytes
  uint64_t value;
  Errc code;
  const char* why;  // a part of it
};

void PrintTo(const Refused& r, std::ostream* out) {
  *out << r.name;
}

class Qcow2HeaderRefuses : public testing::TestWithParam<Refused> {};

TEST_P(Qcow2HeaderRefuses, WithAReason) {
  const Refused& r = GetParam();
  Header h = good_header();
  h.snapshots = 1;
  h.snapshots_offset = 0x50000;
  auto bytes = encoded(h);
  std::string why;
  ASSERT_TRUE(decode_header(bytes, kFileBytes, why)) << why;
  for (unsigned i = 0; i < r.width; ++i)
    bytes[r.offset + i] = static_cast<std::byte>(r.value >> (8 * (r.width - 1 - i)));
  const auto back = decode_header(bytes, kFileBytes, why);
  ASSERT_FALSE(back);
  EXPECT_EQ(back.error().code, r.code);
  EXPECT_NE(why.find(r.why), std::string::npos) << why;
}

constexpr uint64_t kBit63 = uint64_t{1} << 63;

INSTANTIATE_TEST_SUITE_P(
    Qcow2Header, Qcow2HeaderRefuses,
    testing::Values(
        Refused{"Magic", 0, 4, 0x514649fc, Errc::corrupt, "does not begin"},
        Refused{"Version1", 4, 4, 1, Errc::unsupported, "version 1"},
        Refused{"Version4", 4, 4, 4, Errc::unsupported, "version 4"},
        Refused{"ClusterBits8", 20, 4, 8, Errc::corrupt, "2^8"},
        Refused{"ClusterBits22", 20, 4, 22, Errc::corrupt, "2^22"},
        Refused{"ClusterBitsHuge", 20, 4, 0xffffffff, Errc::corrupt, "2^4294967295"},
        Refused{"SizeNegative", 24, 8, kBit63, Errc::too_large, "virtual size"},
        Refused{"SizePastWhatL1TablesHold", 24, 8, kBit63 - 1, Errc::too_large, "virtual size"},
        Refused{"SizePastThisL1Table", 24, 8, (uint64_t{512} << 20) + 1, Errc::corrupt, "needs 2"},
        Refused{"Aes", 32, 4, 1, Errc::unsupported, "encrypted (AES)"},
        Refused{"Luks", 32, 4, 2, Errc::unsupported, "encrypted (LUKS)"},
        Refused{"CryptMethod3", 32, 4, 3, Errc::unsupported, "method 3"},
        Refused{"L1Empty", 36, 4, 0, Errc::corrupt, "L1 table has 0 entries"},
        Refused{"L1Huge", 36, 4, 0xffffffff, Errc::too_large, "L1 table"},
        Refused{"L1PastTheEnd", 36, 4, 0x20000, Errc::corrupt, "L1 table"},
        Refused{"L1Unaligned", 40, 8, 0x30200, Errc::corrupt, "L1 table"},
        Refused{"L1OverTheHeader", 40, 8, 0, Errc::corrupt, "L1 table"},
        Refused{"L1OffsetPastTheEnd", 40, 8, kFileBytes, Errc::corrupt, "L1 table"},
        Refused{"L1OffsetWraps", 40, 8, ~uint64_t{0xffff}, Errc::corrupt, "L1 table"},
        Refused{"L1OverTheRefcountTable", 40, 8, 0x10000, Errc::corrupt, "overlap"},
        Refused{"RefcountTableUnaligned", 48, 8, 0x10001, Errc::corrupt, "refcount table"},
        Refused{"RefcountTableOverTheHeader", 48, 8, 0, Errc::corrupt, "refcount table"},
        Refused{"RefcountTablePastTheEnd", 48, 8, kFileBytes, Errc::corrupt, "refcount table"},
        Refused{"RefcountTableWraps", 48, 8, ~uint64_t{0xffff}, Errc::corrupt, "refcount table"},
        Refused{"RefcountTableOverTheSnapshots", 48, 8, 0x50000, Errc::corrupt, "overlap"},
        Refused{"NoRefcountTable", 56, 4, 0, Errc::corrupt, "no refcount table"},
        Refused{"RefcountTableHuge", 56, 4, 0xffffffff, Errc::too_large, "refcount table"},
        Refused{"RefcountTableLongerThanTheFile", 56, 4, 100, Errc::corrupt, "refcount table"},
        Refused{"SnapshotsTooMany", 60, 4, 65537, Errc::too_large, "65537 snapshots"},
        Refused{"SnapshotsLongerThanTheFile", 60, 4, 65536, Errc::corrupt, "snapshot table"},
        Refused{"SnapshotsUnaligned", 64, 8, 0x50008, Errc::corrupt, "snapshot table"},
        Refused{"SnapshotsOverTheHeader", 64, 8, 0, Errc::corrupt, "snapshot table"},
        Refused{"SnapshotsOverTheL1Table", 64, 8, 0x30000, Errc::corrupt, "overlap"},
        Refused{"UnknownFeature", 72, 8, 1 << 5, Errc::unsupported, "incompatible bit 5"},
        Refused{"DataFileWithSnapshots", 72, 8, kIncompatDataFile, Errc::corrupt, "snapshots"},
        Refused{"CompressionBitWithoutType", 72, 8, kIncompatCompression, Errc::corrupt, "contradict"},
        Refused{"CompressionTypeWithoutBit", 104, 1, 1, Errc::corrupt, "contradict"},
        Refused{"RawWithoutDataFile", 88, 8, kAutoclearDataFileRaw, Errc::corrupt, "external data file"},
        Refused{"RefcountOrder7", 96, 4, 7, Errc::corrupt, "2^7"},
        Refused{"HeaderLength103", 100, 4, 103, Errc::corrupt, "103 bytes"},
        Refused{"HeaderLengthOdd", 100, 4, 108, Errc::corrupt, "108 bytes"},
        Refused{"HeaderLengthPastTheCluster", 100, 4, 65544, Errc::corrupt, "65544 bytes"},
        Refused{"ExtensionTooLong", 112, 8, uint64_t{0x11111111} << 32 | 65536, Errc::corrupt, "0x11111111"}),
    [](const auto& test) { return test.param.name; });

TEST(Qcow2Header, RefusesAnUnknownCompressionType) {
  Header h = good_header();
  h.incompatible = kIncompatCompression;
  h.compression = static_cast<Compression>(2);
  std::string why;
  const auto back = decode_header(encoded(h), kFileBytes, why);
  ASSERT_FALSE(back);
  EXPECT_EQ(back.error().code, Errc::unsupported);
  EXPECT_EQ(why, "compression type 2 is not known here");
}

TEST(Qcow2Header, RefusesExtendedL2EntriesInSmallClusters) {
  Header h = good_header();
  h.size = 0;
  h.l1_size = 0;
  h.cluster_bits = 13;
  h.incompatible = kIncompatExtendedL2;
  std::string why;
  const auto back = decode_header(encoded(h), kFileBytes, why);
  ASSERT_FALSE(back);
  EXPECT_EQ(back.error().code, Errc::corrupt);
}

TEST(Qcow2Header, RefusesABackingNameOfMoreThan1023BytesOrWithANul) {
  Header h = good_header();
  h.backing_file.assign(1023, 'x');
  auto bytes = encoded(h);
  std::string why;
  EXPECT_TRUE(decode_header(bytes, kFileBytes, why)) << why;
  store_be32(bytes.data() + 16, 1024);
  EXPECT_FALSE(decode_header(bytes, kFileBytes, why));
  EXPECT_NE(why.find("1024"), std::string::npos) << why;
  h.backing_file.assign("/etc/shadow\0.img", 16);
  EXPECT_FALSE(decode_header(encoded(h), kFileBytes, why));
  EXPECT_NE(why.find("NUL"), std::string::npos) << why;
}

TEST(Qcow2Header, RefusesABackingNameOutsideItsCluster) {
  Header h = good_header();
  h.backing_file = "base";
  auto bytes = encoded(h);
  for (const uint64_t offset : {uint64_t{8}, uint64_t{104}, uint64_t{65533}, uint64_t{65536}, ~uint64_t{0}}) {
    store_be64(bytes.data() + kFieldBackingOffset, offset);
    std::string why;
    EXPECT_FALSE(decode_header(bytes, kFileBytes, why)) << offset;
    EXPECT_FALSE(why.empty());
  }
}

TEST(Qcow2Header, RefusesASecondExtensionOfAKindThatItUses) {
  Header h = good_header();
  for (int i = 0; i < 2; ++i)
    h.extensions.push_back({kExtensionDataFile, std::vector<std::byte>(4, std::byte{'x'})});
  std::string why;
  EXPECT_FALSE(decode_header(encoded(h), kFileBytes, why));
  EXPECT_NE(why.find("twice"), std::string::npos) << why;
}

}  // namespace
}  // namespace minivmm::qcow2
