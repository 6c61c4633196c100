#include "vmm/core/rate_limiter.h"

#include <gtest/gtest.h>

namespace minivmm {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

const RateLimiter::Clock::time_point kStart{seconds(1000)};

TEST(RateLimiter, LetsABurstThroughAndThenOneByOne) {
  RateLimiter limit({.per_second = 100, .burst = 5}, {});
  for (int i = 0; i < 5; ++i) EXPECT_EQ(limit.take(4096, kStart), nanoseconds{}) << i;
  EXPECT_EQ(limit.take(4096, kStart), milliseconds(10));
  EXPECT_EQ(limit.take(4096, kStart + milliseconds(4)), milliseconds(6));
  EXPECT_EQ(limit.take(4096, kStart + milliseconds(10)), nanoseconds{});
  EXPECT_GT(limit.take(4096, kStart + milliseconds(10)), nanoseconds{});
}

TEST(RateLimiter, FillsUpToTheBurstAndNoFurther) {
  RateLimiter limit({.per_second = 100, .burst = 5}, {});
  for (int i = 0; i < 5; ++i) EXPECT_EQ(limit.take(0, kStart), nanoseconds{});
  const auto later = kStart + seconds(3600);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(limit.take(0, later), nanoseconds{}) << i;
  EXPECT_GT(limit.take(0, later), nanoseconds{});
}

TEST(RateLimiter, LetsARequestLargerThanTheBurstBeginAndBePaidOff) {
  RateLimiter limit({}, {.per_second = 1 << 20, .burst = 1 << 20});
  EXPECT_EQ(limit.take(4 << 20, kStart), nanoseconds{});
  EXPECT_EQ(limit.take(1 << 20, kStart + seconds(1)), seconds(3));
  EXPECT_EQ(limit.take(1 << 20, kStart + seconds(4)), nanoseconds{});
}

TEST(RateLimiter, ChargesNothingForWhatMustWait) {
  RateLimiter limit({.per_second = 1000, .burst = 1000}, {.per_second = 1000, .burst = 1000});
  EXPECT_EQ(limit.take(1000, kStart), nanoseconds{});
  for (int i = 0; i < 100; ++i) EXPECT_GT(limit.take(1000, kStart), nanoseconds{});
  EXPECT_EQ(limit.take(1000, kStart + seconds(1)), nanoseconds{});
}

TEST(RateLimiter, WhatWasDoneAlreadyIsPaidOffAfterwards) {
  RateLimiter limit({}, {.per_second = 1000, .burst = 1000});
  limit.charge(3000, kStart);
  EXPECT_EQ(limit.wait(1, kStart), nanoseconds(2'001'000'000));
  EXPECT_EQ(limit.wait(1, kStart + seconds(3)), nanoseconds{});
}

TEST(RateLimiter, HoldsItsRateInTheLongRun) {
  RateLimiter limit({.per_second = 500}, {});
  int begun = 0;
  for (auto now = kStart; now < kStart + seconds(10); now += nanoseconds(100'000)) {
    while (limit.take(512, now) == nanoseconds{}) ++begun;
  }
  EXPECT_NEAR(begun, 5050, 2);  // 10 s of 500, and the first burst of 50
}

TEST(RateLimiter, SurvivesNumbersOfAnySize) {
  RateLimiter limit({.per_second = 1, .burst = 1}, {.per_second = 1, .burst = 1});
  EXPECT_EQ(limit.take(~uint64_t{0}, kStart), nanoseconds{});
  EXPECT_GT(limit.take(~uint64_t{0}, kStart + seconds(1)), nanoseconds{});
  RateLimiter none({}, {});
  EXPECT_FALSE(none.limits());
  EXPECT_EQ(none.take(~uint64_t{0}, kStart), nanoseconds{});
}

}  // namespace
}  // namespace minivmm
