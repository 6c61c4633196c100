#include "boot/unpack.h"

#include <gtest/gtest.h>

#include "tests/unit/boot/kernel_builder.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class Unpack : public ::testing::TestWithParam<Compression> {
 protected:
  // Neither all alike nor all different; more than one LZ4 block.
  static Bytes plain() {
    Bytes data((GetParam() == Compression::lz4 ? 8 << 20 : 1 << 18) + 12345);
    uint32_t state = 1;
    for (size_t i = 0; i < data.size(); ++i) {
      if (i % 16 == 0) state = state * 1664525 + 1013904223;
      data[i] = static_cast<std::byte>(state >> 24);
    }
    return data;
  }
  static Bytes packed(const Bytes& data) {
    Bytes out = compress(GetParam(), data);
    if (GetParam() != Compression::gzip) out.resize(out.size() - 4);
    return out;
  }
};
INSTANTIATE_TEST_SUITE_P(Each, Unpack,
                         ::testing::Values(Compression::gzip, Compression::lz4, Compression::xz,
                                           Compression::zstd),
                         [](const auto& param_info) { return std::string(name_of(param_info.param)); });

TEST_P(Unpack, GivesBackWhatWasPacked) {
  const Bytes data = plain();
  const Bytes in = packed(data);
  EXPECT_EQ(detect_compression(in), GetParam());
  Bytes out(data.size());
  ASSERT_TRUE(unpack(GetParam(), in, out));
  EXPECT_EQ(out, data);
}

TEST_P(Unpack, GivesTheBeginningAlone) {
  const Bytes data = plain();
  Bytes out(4096);
  ASSERT_TRUE(unpack_prefix(GetParam(), packed(data), out));
  EXPECT_EQ(out, Bytes(data.begin(), data.begin() + 4096));
}

TEST_P(Unpack, RefusesAnotherSizeThanExpected) {
  const Bytes data(100000, std::byte{1});
  const Bytes in = packed(data);
  Bytes larger(data.size() + 1);
  Bytes smaller(data.size() - 1);
  EXPECT_FALSE(unpack(GetParam(), in, larger));
  EXPECT_FALSE(unpack(GetParam(), in, smaller));
  EXPECT_FALSE(unpack_prefix(GetParam(), in, larger));
}

TEST_P(Unpack, RefusesDataCutOffAnywhere) {
  const Bytes data(100000, std::byte{1});
  const Bytes in = packed(data);
  Bytes out(data.size());
  for (size_t size = 0; size < in.size(); size += 1 + size / 64) {
    EXPECT_FALSE(unpack(GetParam(), std::span(in).first(size), out)) << size;
  }
}

TEST(UnpackAny, DoesNotKnowWhatIsNothing) {
  EXPECT_EQ(detect_compression({}), std::nullopt);
  EXPECT_EQ(detect_compression(Bytes(16)), std::nullopt);
  EXPECT_EQ(detect_compression(compress(std::nullopt, Bytes(16))), std::nullopt);
}

TEST(UnpackAny, Lz4BlockSizesAreNotBelieved) {
  Bytes in;
  put(in, 0, uint32_t{0x184c2102});
  put(in, 4, ~uint32_t{0});
  in.resize(64);
  Bytes out(4096);
  EXPECT_FALSE(unpack(Compression::lz4, in, out));
  put(in, 4, uint32_t{0});
  EXPECT_FALSE(unpack(Compression::lz4, in, out));
}

}  // namespace
}  // namespace minivmm
