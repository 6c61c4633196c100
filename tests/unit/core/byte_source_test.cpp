#include "vmm/core/byte_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

namespace minivmm {
namespace {

class Counting final : public ByteSource {  // byte n is n
 public:
  uint64_t size() const override { return 100; }
  Result<void> read(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > size() || out.size() > size() - offset) return fail(Errc::out_of_range, "past the end");
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(offset + i);
    return {};
  }
};

TEST(ByteRange, StartsAtItsOffsetAndEndsAtItsLength) {
  const Counting whole;
  const ByteRange part(whole, 10, 20);
  EXPECT_EQ(part.size(), 20U);
  std::array<std::byte, 4> out{};
  ASSERT_TRUE(part.read(16, out));
  EXPECT_EQ(out.front(), std::byte{26});
  EXPECT_EQ(out.back(), std::byte{29});
  EXPECT_EQ(part.read(17, out).error().code, Errc::out_of_range);
  EXPECT_EQ(part.read(~uint64_t{0}, out).error().code, Errc::out_of_range);
}

TEST(ByteRange, EndsWhereTheSourceDoes) {
  const Counting whole;
  EXPECT_EQ(ByteRange(whole, 90, 20).size(), 10U);
  EXPECT_EQ(ByteRange(whole, 90, ~uint64_t{0}).size(), 10U);
  EXPECT_EQ(ByteRange(whole, 100, 1).size(), 0U);
  EXPECT_EQ(ByteRange(whole, ~uint64_t{0}, ~uint64_t{0}).size(), 0U);
}

}  // namespace
}  // namespace minivmm
