#include "devices/net/internal/mac_table.h"

#include <gtest/gtest.h>

namespace minivmm {
namespace {

using Clock = MacTable::Clock;
constexpr Clock::time_point kStart{};

MacAddress numbered(uint32_t number) {
  return {{2, 0, static_cast<uint8_t>(number >> 24), static_cast<uint8_t>(number >> 16),
           static_cast<uint8_t>(number >> 8), static_cast<uint8_t>(number)}};
}

TEST(MacTable, RemembersWhoWasHeard) {
  MacTable table;
  table.learn(numbered(1), 7, kStart);
  EXPECT_EQ(table.find(numbered(1), kStart), 7u);
  EXPECT_EQ(table.find(numbered(2), kStart), std::nullopt);
}

TEST(MacTable, FollowsAnAddressThatMoves) {
  MacTable table;
  table.learn(numbered(1), 7, kStart);
  table.learn(numbered(1), 8, kStart);
  EXPECT_EQ(table.find(numbered(1), kStart), 8u);
  EXPECT_EQ(table.size(), 1u);
}

TEST(MacTable, ForgetsWhatWasNotHeardForLong) {
  MacTable table;
  table.learn(numbered(1), 7, kStart);
  EXPECT_TRUE(table.find(numbered(1), kStart + MacTable::kAge));
  EXPECT_FALSE(table.find(numbered(1), kStart + MacTable::kAge + std::chrono::seconds(1)));
}

TEST(MacTable, DoesNotLearnGroups) {
  MacTable table;
  table.learn({{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}, 7, kStart);
  table.learn({{0x01, 0, 0x5e, 0, 0, 1}}, 7, kStart);
  table.learn({}, 7, kStart);
  EXPECT_EQ(table.size(), 0u);
}

TEST(MacTable, ForgetsAMemberThatLeft) {
  MacTable table;
  for (uint32_t i = 0; i < 10; ++i) table.learn(numbered(i), i % 2, kStart);
  table.forget(0);
  EXPECT_EQ(table.size(), 5u);
  EXPECT_FALSE(table.find(numbered(2), kStart));
  EXPECT_TRUE(table.find(numbered(3), kStart));
}

TEST(MacTable, AMemberThatMakesUpAddressesPushesOutItsOwn) {
  MacTable table;
  table.learn(numbered(1), 1, kStart);
  for (uint32_t i = 0; i < 5'000; ++i)
    table.learn(numbered(1000 + i), 2, kStart + std::chrono::microseconds(i));
  EXPECT_EQ(table.size(), 1 + MacTable::kMaxOfMember);
  EXPECT_EQ(table.find(numbered(1), kStart), 1u);
  EXPECT_TRUE(table.find(numbered(1000 + 4'999), kStart)) << "the newest is kept";
}

TEST(MacTable, ManyMembersStayWithinItsBound) {
  MacTable table;
  for (uint32_t i = 0; i < 5'000; ++i)
    table.learn(numbered(i), i % 100, kStart + std::chrono::microseconds(i));
  EXPECT_EQ(table.size(), MacTable::kMaxEntries);
  EXPECT_TRUE(table.find(numbered(4'999), kStart));
}

}  // namespace
}  // namespace minivmm
