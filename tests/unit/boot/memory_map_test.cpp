#include <gtest/gtest.h>

#include "boot/e820.h"
#include "boot/placement.h"
#include "tests/unit/boot/kernel_builder.h"

namespace minivmm {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;
using Ranges = std::vector<GuestMemory::Range>;

TEST(E820, ASmallMachineHasItsFirstMiBAsAPc) {
  const Ranges ram{{Gpa{0}, 32 * kMiB}};
  const std::vector<E820Entry> expected{{0, 0x9fc00, E820Type::ram},
                                        {0x9fc00, 0x400, E820Type::reserved},
                                        {0xe0000, 0x20000, E820Type::reserved},
                                        {0x100000, 31 * kMiB, E820Type::ram}};
  EXPECT_EQ(build_e820(ram, {}), expected);
}

TEST(E820, RamOnBothSidesOfTheHoleAndEcamBetween) {
  const Ranges ram{{Gpa{0}, 3 * kGiB}, {Gpa{4 * kGiB}, 3 * kGiB}};
  const Ranges reserved{{Gpa{0xe0000000}, kMiB}};
  const auto map = build_e820(ram, reserved);
  ASSERT_EQ(map.size(), 6U);
  EXPECT_EQ(map[3], (E820Entry{kMiB, 3 * kGiB - kMiB, E820Type::ram}));
  EXPECT_EQ(map[4], (E820Entry{0xe0000000, kMiB, E820Type::reserved}));
  EXPECT_EQ(map[5], (E820Entry{4 * kGiB, 3 * kGiB, E820Type::ram}));
}

TEST(E820, RegionsThatAdjoinAreOne) {
  const Ranges ram{{Gpa{0}, kGiB}, {Gpa{kGiB}, kGiB}};
  EXPECT_EQ(build_e820(ram, {}).back(), (E820Entry{kMiB, 2 * kGiB - kMiB, E820Type::ram}));
}

TEST(E820, ReservedRangesCutRamAndMayOverlap) {
  const Ranges ram{{Gpa{0}, 64 * kMiB}};
  const Ranges reserved{{Gpa{17 * kMiB}, 2 * kMiB}, {Gpa{16 * kMiB}, 2 * kMiB}, {Gpa{0}, 0}};
  const auto map = build_e820(ram, reserved);
  ASSERT_EQ(map.size(), 6U);
  EXPECT_EQ(map[3], (E820Entry{kMiB, 15 * kMiB, E820Type::ram}));
  EXPECT_EQ(map[4], (E820Entry{16 * kMiB, 3 * kMiB, E820Type::reserved}));
  EXPECT_EQ(map[5], (E820Entry{19 * kMiB, 45 * kMiB, E820Type::ram}));
}

TEST(E820, EntriesAreSortedAndDisjoint) {
  const Ranges ram{{Gpa{0}, 3 * kGiB}, {Gpa{4 * kGiB}, kGiB}};
  const Ranges reserved{{Gpa{0xb0000000}, kMiB}, {Gpa{0}, kMiB}, {Gpa{4 * kGiB - kMiB}, 2 * kMiB}};
  uint64_t end = 0;
  for (const E820Entry& entry : build_e820(ram, reserved)) {
    EXPECT_GE(entry.base, end);
    EXPECT_GT(entry.size, 0U);
    end = entry.base + entry.size;
  }
}

class Placement : public ::testing::Test {
 protected:
  static BootConfig config(const GuestMemory& memory) {
    BootConfig c;
    c.e820 = build_e820(memory, {});
    return c;
  }
};

TEST_F(Placement, LeavesTheBootDataAndTheFirstMiBsHolesAlone) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  const PlacementMap map(memory, config(memory));
  EXPECT_FALSE(map.is_free(0, 4096));
  EXPECT_FALSE(map.is_free(0x1f000, 0x1000));
  EXPECT_TRUE(map.is_free(0x20000, 0x1000));
  EXPECT_FALSE(map.is_free(0x9f000, 0x1000));
  EXPECT_FALSE(map.is_free(0xe0000, 0x1000));
  EXPECT_TRUE(map.is_free(kMiB, 31 * kMiB));
  EXPECT_FALSE(map.is_free(kMiB, 31 * kMiB + 1));
  EXPECT_FALSE(map.is_free(~uint64_t{0}, 2));
}

TEST_F(Placement, DoesNotTrustAMapThatClaimsMoreThanThereIs) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  BootConfig c;
  c.e820 = {{0, kGiB, E820Type::ram}};
  EXPECT_EQ(PlacementMap(memory, c).largest_free(kFourGiB), 32 * kMiB - 0x20000);
}

TEST_F(Placement, HighestTakesTheTopBelowTheLimit) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, 3 * kGiB}, {Gpa{4 * kGiB}, kGiB}});
  PlacementMap map(memory, config(memory));
  EXPECT_EQ(map.highest(5000, 4096, kFourGiB), 3 * kGiB - 8192);
  map.take(3 * kGiB - 8192, 8192);
  EXPECT_EQ(map.highest(4096, 4096, kFourGiB), 3 * kGiB - 12288);
  EXPECT_EQ(map.highest(4096, 4096, 64 * kMiB + 100), 64 * kMiB - 4096);
  EXPECT_EQ(map.highest(4 * kGiB, 4096, kFourGiB), std::nullopt);
  EXPECT_EQ(map.highest(~uint64_t{0}, 4096, kFourGiB), std::nullopt);
}

TEST_F(Placement, SlotsAreAllAlignedFreeAndDistinct) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, 64 * kMiB}});
  PlacementMap map(memory, config(memory));
  map.take(30 * kMiB + 5, 7);
  const uint64_t count = map.slot_count(3 * kMiB, 2 * kMiB, 16 * kMiB, kFourGiB);
  // 16 to 26 in steps of 2, and 32 to 60.
  EXPECT_EQ(count, 6U + 15U);
  uint64_t last = 0;
  for (uint64_t n = 0; n < count; ++n) {
    const auto place = map.slot(n, 3 * kMiB, 2 * kMiB, 16 * kMiB, kFourGiB);
    ASSERT_TRUE(place);
    EXPECT_EQ(*place % (2 * kMiB), 0U);
    EXPECT_TRUE(map.is_free(*place, 3 * kMiB));
    EXPECT_GT(*place, last);
    last = *place;
  }
  EXPECT_EQ(map.slot(count, 3 * kMiB, 2 * kMiB, 16 * kMiB, kFourGiB), std::nullopt);
}

}  // namespace
}  // namespace minivmm
