// Compressed clusters: qemu-img's are read and written over, ours are read by qemu-img.
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>

#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

// Compresses well, and differs everywhere.
Bytes text(uint64_t length, uint64_t seed) {
  Bytes bytes(length);
  for (uint64_t i = 0; i < length; ++i)
    bytes[i] = static_cast<std::byte>('a' + ((i / 64) * (seed + 3) + i % 3) % 23);
  return bytes;
}

Bytes deflated(std::span<const std::byte> from) {
  Bytes to(from.size());
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));  // only read from
  stream.avail_in = static_cast<uInt>(from.size());
  stream.next_out = reinterpret_cast<Bytef*>(to.data());
  stream.avail_out = static_cast<uInt>(to.size());
  const bool fits = deflate(&stream, Z_FINISH) == Z_STREAM_END;
  to.resize(fits ? stream.total_out : 0);
  deflateEnd(&stream);
  return to;
}

Bytes zstd(std::span<const std::byte> from) {
  Bytes to(ZSTD_compressBound(from.size()));
  const size_t size = ZSTD_compress(to.data(), to.size(), from.data(), from.size(), 3);
  EXPECT_EQ(ZSTD_isError(size), 0U);
  to.resize(size);
  return to;
}

struct Shape {
  const char* name;
  const char* options;
  uint64_t cluster;
};

class Compressed : public ImageTest, public testing::WithParamInterface<Shape> {
 protected:
  static constexpr uint64_t kSize = 1 << 20;

  Bytes compressed(std::span<const std::byte> cluster) const {
    return std::string(GetParam().options).find("zstd") != std::string::npos ? zstd(cluster)
                                                                             : deflated(cluster);
  }
  void make_by_qemu(const Bytes& contents) {
    write_file("contents.raw", contents);
    ASSERT_EQ(shell(fmt::format("qemu-img convert -c -f raw -O qcow2 -o {} contents.raw disk.qcow2",
                                GetParam().options)),
              0);
  }
};

TEST_P(Compressed, ReadsWhatQemuCompressed) {
  const Bytes contents = text(kSize, 1);
  make_by_qemu(contents);
  const auto image = open("disk.qcow2", false);
  ASSERT_NE(image, nullptr) << why_;
  EXPECT_EQ(read(*image, 0, kSize), contents);
  const auto extent = engine_->run(image->extent(*engine_, 0, kSize));
  ASSERT_TRUE(extent);
  EXPECT_EQ(extent->state, BlockExtent::State::compressed);
  for (uint64_t at = 0; at < kSize; at += 13 * kSectorSize) {
    const auto part = read(*image, at, kSectorSize);
    ASSERT_TRUE(part);
    ASSERT_TRUE(std::ranges::equal(*part, std::span(contents).subspan(at, kSectorSize))) << at;
  }
}

TEST_P(Compressed, CopiesOutWhatIsWrittenOver) {
  Bytes contents = text(kSize, 2);
  make_by_qemu(contents);
  auto image = open("disk.qcow2");
  ASSERT_NE(image, nullptr) << why_;
  std::mt19937_64 random(3);
  for (int i = 0; i < 80; ++i) {
    const uint64_t length = (1 + random() % 9) * kSectorSize;
    const uint64_t offset = random() % ((kSize - length) / kSectorSize) * kSectorSize;
    const Bytes bytes = pattern(random, length);
    ASSERT_TRUE(write(*image, offset, bytes));
    std::ranges::copy(bytes, contents.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  const uint64_t zeroed = GetParam().cluster * 2 + kSectorSize;
  ASSERT_TRUE(run(*image, {.op = BlockOp::write_zeroes, .offset = kSectorSize, .length = zeroed}));
  std::fill_n(contents.begin() + kSectorSize, zeroed, std::byte{0});
  EXPECT_EQ(read(*image, 0, kSize), contents);
  ASSERT_TRUE(close(*image));
  image.reset();
  EXPECT_EQ(check("disk.qcow2"), 0);
  EXPECT_EQ(as_qemu_reads("disk.qcow2"), contents);
}

TEST_P(Compressed, StoresWhatQemuReads) {
  create("disk.qcow2", kSize, GetParam().options);
  auto image = open("disk.qcow2");
  ASSERT_NE(image, nullptr) << why_;
  Bytes contents(kSize);
  std::mt19937_64 random(4);
  const uint64_t size = GetParam().cluster;
  // Some twice, some not compressible, some overwritten.
  for (int i = 0; i < 3; ++i) {
    for (uint64_t at = 0; at < kSize; at += size) {
      if (random() % 3 == 0) continue;
      const Bytes cluster =
          random() % 5 == 0 ? pattern(random, size) : text(size, at + static_cast<uint64_t>(i));
      ASSERT_TRUE(engine_->run(image->write_compressed(*engine_, at, cluster, compressed(cluster))));
      std::ranges::copy(cluster, contents.begin() + static_cast<std::ptrdiff_t>(at));
    }
    EXPECT_EQ(read(*image, 0, kSize), contents);
    const Bytes sector = pattern(random, kSectorSize);
    ASSERT_TRUE(write(*image, size, sector));
    std::ranges::copy(sector, contents.begin() + static_cast<std::ptrdiff_t>(size));
    ASSERT_TRUE(flush(*image));
  }
  ASSERT_TRUE(close(*image));
  image.reset();
  EXPECT_EQ(check("disk.qcow2"), 0);
  EXPECT_EQ(as_qemu_reads("disk.qcow2"), contents);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Compressed,
    testing::Values(Shape{"Zlib", "cluster_size=65536", 65536},
                    Shape{"ZlibVersion2", "compat=0.10,cluster_size=65536", 65536},
                    Shape{"Zstd", "compression_type=zstd", 65536},
                    Shape{"ZlibFourKiB", "cluster_size=4096", 4096},
                    Shape{"ZlibExtended", "extended_l2=on,cluster_size=32768", 32768},
                    Shape{"ZlibNarrowRefcounts", "cluster_size=16384,refcount_bits=1", 16384},
                    Shape{"ZstdSmallest", "cluster_size=512,compression_type=zstd", 512}),
    [](const auto& one) { return one.param.name; });

// A window that is not 12 bits, or a stream that ends too early: an error, not what was in memory.
TEST_F(ImageTest, RefusesACompressedClusterThatIsTooShort) {
  create("disk.qcow2", 1 << 20, "cluster_size=65536");
  {
    auto image = open("disk.qcow2");
    const Bytes cluster = text(65536, 1);
    const Bytes half = deflated(std::span(cluster).first(32768));
    ASSERT_TRUE(engine_->run(image->write_compressed(*engine_, 0, cluster, half)));
    ASSERT_TRUE(close(*image));
  }
  const auto image = open("disk.qcow2", false);
  const auto bytes = read(*image, 0, 512);
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, Errc::corrupt);
}

TEST_F(ImageTest, BoundsWhatABombGives) {
  create("disk.qcow2", 1 << 20, "cluster_size=4096,compression_type=zstd");
  auto image = open("disk.qcow2");
  const Bytes zeroes(uint64_t{16} << 20);
  const Bytes bomb = zstd(zeroes);  // a few KiB that stand for 16 MiB
  ASSERT_LT(bomb.size(), 4096U);
  ASSERT_TRUE(engine_->run(image->write_compressed(*engine_, 0, std::span(zeroes).first(4096), bomb)));
  const auto bytes = read(*image, 0, 4096);
  ASSERT_TRUE(bytes);
  EXPECT_EQ(*bytes, Bytes(4096));
}

}  // namespace
}  // namespace minivmm::qcow2::test
