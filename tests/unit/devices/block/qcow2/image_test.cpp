// What an image does beyond moving bytes: its marks, its backing file, its extents, its snapshots.
#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

class QcowImage : public ImageTest {
 protected:
  void poke(uint64_t offset, uint64_t value) const {
    std::array<std::byte, 8> bytes{};
    store_be64(bytes.data(), value);
    std::fstream file(path("disk.qcow2"), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset));
    file.write(reinterpret_cast<const char*>(bytes.data()), 8);
  }
  Header header() { return open("disk.qcow2", false)->header(); }
};

TEST_F(QcowImage, NamesAnotherBackingFile) {
  write_file("a-very-long-name-of-a-backing-file.raw", Bytes(65536, std::byte{7}));
  write_file("b.raw", Bytes(65536, std::byte{8}));
  create("disk.qcow2", 65536, "", "-b a-very-long-name-of-a-backing-file.raw -F raw");
  for (const auto& [name, format] : {std::pair{"b.raw", "raw"}, std::pair{"", ""}}) {
    auto image = open("disk.qcow2");
    ASSERT_NE(image, nullptr) << why_;
    ASSERT_TRUE(engine_->run(image->set_backing(*engine_, name, format)));
    EXPECT_EQ(image->header().backing_file, name);
    ASSERT_TRUE(close(*image));
    image.reset();
    EXPECT_EQ(header().backing_file, name);
    EXPECT_EQ(header().backing_format().value_or(""), format);
    EXPECT_EQ(check("disk.qcow2"), 0);
    EXPECT_EQ(as_qemu_reads("disk.qcow2"), Bytes(65536, std::byte(*name == 'b' ? 8 : 0)));
  }
}

TEST_F(QcowImage, RefusesABackingNameThatDoesNotFit) {
  create("disk.qcow2", 65536, "cluster_size=512");
  const auto image = open("disk.qcow2");
  const auto done = engine_->run(image->set_backing(*engine_, std::string(600, 'x'), "raw"));
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, Errc::too_large);
  EXPECT_EQ(image->header().backing_file, "");
}

TEST_F(QcowImage, MarksBitmapsAsInconsistentWhenItMayWrite) {
  create("disk.qcow2", 1 << 20, "");
  ASSERT_EQ(shell("qemu-io -c 'write -P 1 0 256k' disk.qcow2"), 0);
  for (const char* bitmap : {"marks", "more-marks", "even-more-marks"})
    ASSERT_EQ(shell(fmt::format("qemu-img bitmap --add disk.qcow2 {}", bitmap)), 0);
  ASSERT_NE(open("disk.qcow2", false), nullptr);
  EXPECT_NE(shell("qemu-img info disk.qcow2 | grep in-use"), 0);  // not by one who only reads
  {
    const auto image = open("disk.qcow2");
    ASSERT_TRUE(write(*image, 128 << 10, Bytes(512 << 10, std::byte{3})));
    ASSERT_TRUE(engine_->run(image->resize(*engine_, uint64_t{40} << 30)));  // past what they cover
    ASSERT_TRUE(write(*image, uint64_t{39} << 30, Bytes(512, std::byte{4})));
    ASSERT_TRUE(close(*image));
  }
  // Nothing leaks, QEMU knows them as inconsistent, and can remove them.
  EXPECT_EQ(header().autoclear, kAutoclearBitmaps);
  EXPECT_EQ(check("disk.qcow2"), 0);
  EXPECT_EQ(shell("test $(qemu-img info disk.qcow2 | grep -c in-use) = 3"), 0);
  for (const char* bitmap : {"more-marks", "marks", "even-more-marks"})
    EXPECT_EQ(shell(fmt::format("qemu-img bitmap --remove disk.qcow2 {}", bitmap)), 0);
  EXPECT_EQ(check("disk.qcow2"), 0);
  ASSERT_TRUE(close(*open("disk.qcow2")));
  EXPECT_EQ(check("disk.qcow2"), 0);
}

TEST_F(QcowImage, TakesBackTheBitmapsMarkWhereTheirDirectoryMakesNoSense) {
  create("disk.qcow2", 1 << 20, "");
  ASSERT_EQ(shell("qemu-img bitmap --add disk.qcow2 marks"), 0);
  const Extension bitmaps = *find_extension(header(), kExtensionBitmaps);
  const uint64_t directory = load_be64(bitmaps.data.data() + 16);
  poke(directory + 16, ~uint64_t{0});  // the first entry's lengths
  ASSERT_TRUE(close(*open("disk.qcow2")));
  EXPECT_EQ(header().autoclear, 0U);
  EXPECT_NE(find_extension(header(), kExtensionBitmaps), nullptr);
}

TEST_F(QcowImage, IsMarkedAsDirtyWhileItsRefcountsAreBehind) {
  create("disk.qcow2", 1 << 20, "lazy_refcounts=on");
  {
    const auto image = open("disk.qcow2");
    EXPECT_EQ(image->header().incompatible, 0U);
    ASSERT_TRUE(write(*image, 0, Bytes(65536, std::byte{3})));
    ASSERT_TRUE(flush(*image));
    EXPECT_EQ(image->header().incompatible, kIncompatDirty);
    ASSERT_EQ(shell("cp disk.qcow2 crashed.qcow2"), 0);
    ASSERT_TRUE(close(*image));
    EXPECT_EQ(image->header().incompatible, 0U);
  }
  EXPECT_EQ(check("disk.qcow2"), 0);
  EXPECT_NE(check("crashed.qcow2"), 0);
  {
    const auto image = open("crashed.qcow2");  // the counts are rebuilt
    ASSERT_NE(image, nullptr) << why_;
    ASSERT_TRUE(write(*image, 65536, Bytes(65536, std::byte{4})));
    EXPECT_EQ(read(*image, 0, 65536), Bytes(65536, std::byte{3}));
    ASSERT_TRUE(close(*image));
  }
  EXPECT_EQ(check("crashed.qcow2"), 0);
}

TEST_F(QcowImage, SaysWhereItsBytesComeFrom) {
  write_file("below.raw", Bytes(128 << 10, std::byte{1}));
  create("disk.qcow2", 1 << 20, "cluster_size=64k", "-b below.raw -F raw");
  const auto image = open("disk.qcow2", true, raw("below.raw"));
  ASSERT_TRUE(write(*image, 192 << 10, Bytes(64 << 10, std::byte{2})));
  ASSERT_TRUE(run(*image, {.op = BlockOp::write_zeroes, .offset = 0, .length = 64 << 10, .may_unmap = true}));
  using State = BlockExtent::State;
  struct Expected {
    uint64_t offset, length;
    State state;
    unsigned depth;
  };
  for (const Expected& one :
       {Expected{0, 64 << 10, State::zero, 0}, Expected{64 << 10, 64 << 10, State::data, 1},
        Expected{128 << 10, 64 << 10, State::unallocated, 0}, Expected{192 << 10, 64 << 10, State::data, 0},
        Expected{256 << 10, 768 << 10, State::unallocated, 0}}) {
    const auto extent = engine_->run(image->extent(*engine_, one.offset, (1 << 20) - one.offset));
    ASSERT_TRUE(extent);
    EXPECT_EQ(extent->length, one.length) << one.offset;
    EXPECT_EQ(extent->state, one.state) << one.offset;
    EXPECT_EQ(extent->depth, one.depth) << one.offset;
  }
  ASSERT_TRUE(close(*image));
}

TEST_F(QcowImage, LeavesASnapshotAsItWas) {
  create("disk.qcow2", 1 << 20, "cluster_size=4096");
  ASSERT_EQ(shell("qemu-io -c 'write -P 7 0 512k' disk.qcow2"), 0);
  ASSERT_EQ(shell("qemu-img snapshot -c kept disk.qcow2"), 0);
  auto image = open("disk.qcow2");
  ASSERT_TRUE(write(*image, 512, Bytes(300 << 10, std::byte{9})));
  ASSERT_TRUE(run(*image, {.op = BlockOp::discard, .offset = 384 << 10, .length = 64 << 10}));
  ASSERT_TRUE(close(*image));
  image.reset();
  EXPECT_EQ(check("disk.qcow2"), 0);
  ASSERT_EQ(shell("qemu-img snapshot -a kept disk.qcow2"), 0);
  Bytes kept(1 << 20);
  std::fill_n(kept.begin(), 512 << 10, std::byte{7});
  EXPECT_EQ(as_qemu_reads("disk.qcow2"), kept);
}

TEST_F(QcowImage, RefusesToResizeVersion2WithSnapshots) {
  create("disk.qcow2", 1 << 20, "compat=0.10");
  ASSERT_EQ(shell("qemu-img snapshot -c kept disk.qcow2"), 0);
  const auto image = open("disk.qcow2");
  const auto done = engine_->run(image->resize(*engine_, 2 << 20));
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, Errc::unsupported);
}

TEST_F(QcowImage, GrowsToWhereItsTablesNeedMoreRoom) {
  create("disk.qcow2", 1 << 20, "cluster_size=512");
  Bytes contents(1 << 20, std::byte{6});
  {
    const auto image = open("disk.qcow2");
    ASSERT_TRUE(write(*image, 0, contents));
    ASSERT_TRUE(engine_->run(image->resize(*engine_, uint64_t{1} << 30)));
    ASSERT_TRUE(write(*image, (uint64_t{1} << 30) - 512, Bytes(512, std::byte{5})));
    EXPECT_EQ(image->capacity(), uint64_t{1} << 30);
    ASSERT_TRUE(close(*image));
  }
  EXPECT_EQ(check("disk.qcow2"), 0);
  const auto image = open("disk.qcow2", false);
  EXPECT_EQ(read(*image, 0, 1 << 20), contents);
  EXPECT_EQ(read(*image, 1 << 20, 512), Bytes(512));
  EXPECT_EQ(read(*image, (uint64_t{1} << 30) - 512, 512), Bytes(512, std::byte{5}));
}

TEST_F(QcowImage, GivesBackTheSpaceOfWhatIsDiscarded) {
  create("disk.qcow2", 8 << 20, "");
  const auto image = open("disk.qcow2");
  ASSERT_TRUE(write(*image, 0, Bytes(8 << 20, std::byte{6})));
  ASSERT_TRUE(flush(*image));
  ASSERT_TRUE(run(*image, {.op = BlockOp::discard, .offset = 0, .length = 8 << 20}));
  ASSERT_TRUE(flush(*image));
  ASSERT_TRUE(close(*image));
  EXPECT_LT(std::filesystem::file_size(path("disk.qcow2")), uint64_t{1} << 20);
}

TEST_F(QcowImage, DoesNothingForADiscardWhereThatIsOff) {
  create("disk.qcow2", 1 << 20, "");
  Image::Options options;
  options.discard = false;
  const auto image = open("disk.qcow2", std::move(options));
  ASSERT_TRUE(write(*image, 0, Bytes(65536, std::byte{6})));
  ASSERT_TRUE(run(*image, {.op = BlockOp::discard, .offset = 0, .length = 65536}));
  EXPECT_EQ(read(*image, 0, 65536), Bytes(65536, std::byte{6}));
  ASSERT_TRUE(close(*image));
}

TEST_F(QcowImage, UsesFreedClustersAgain) {
  create("disk.qcow2", 8 << 20, "");
  const auto image = open("disk.qcow2");
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(write(*image, 0, Bytes(8 << 20, std::byte{6})));
    ASSERT_TRUE(run(*image, {.op = BlockOp::discard, .offset = 0, .length = 8 << 20}));
    ASSERT_TRUE(flush(*image));
  }
  EXPECT_LT(image->file().size(), uint64_t{12} << 20);
  ASSERT_TRUE(close(*image));
}

TEST_F(QcowImage, WritesNothingWhenItIsOnlyRead) {
  create("disk.qcow2", 1 << 20, "");
  const auto image = open("disk.qcow2", false);
  EXPECT_TRUE(image->read_only());
  EXPECT_EQ(write(*image, 0, Bytes(512)).error().code, Errc::unsupported);
  EXPECT_TRUE(flush(*image));
  EXPECT_TRUE(close(*image));
}

TEST_F(QcowImage, IsNotOpenedForWritingWhenItIsMarkedAsCorrupt) {
  create("disk.qcow2", 1 << 20, "");
  poke(kFieldIncompatible, kIncompatCorrupt);
  EXPECT_EQ(open("disk.qcow2"), nullptr);
  EXPECT_EQ(error_, Errc::corrupt);
  EXPECT_THAT(why_, testing::HasSubstr("corrupt"));
  EXPECT_NE(open("disk.qcow2", false), nullptr);
}

TEST_F(QcowImage, WantsItsDataFile) {
  create("disk.qcow2", 1 << 20, "data_file=data.raw");
  EXPECT_EQ(open("disk.qcow2"), nullptr);
  EXPECT_EQ(error_, Errc::invalid);
  EXPECT_THAT(why_, testing::HasSubstr("data file"));
}

}  // namespace
}  // namespace minivmm::qcow2::test
