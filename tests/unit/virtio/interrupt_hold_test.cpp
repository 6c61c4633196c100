#include "virtio/interrupt_hold.h"

#include <gtest/gtest.h>

namespace minivmm::test {
namespace {

using std::chrono::microseconds;

InterruptHold::Clock::time_point the_time{};

// A guest with so many requests in flight, and a device that ends each at once: what one interrupt tells of.
struct Model {
  unsigned depth;
  microseconds gap{5};  // the guest's, between two requests it sends
  InterruptHold hold{2, [] { return the_time += std::chrono::nanoseconds(100); }};
  microseconds waited_in_vain{0};

  // The guest sends what it may; returns how many had ended when it was interrupted.
  unsigned round() {
    unsigned ended = 0;
    for (;;) {
      ++ended;
      const auto began = the_time;
      const bool more = hold.wait(ended, [&] { return ended < depth && the_time - began >= gap; });
      if (!more) {
        waited_in_vain += std::chrono::duration_cast<microseconds>(the_time - began);
        return ended;
      }
    }
  }
};

TEST(InterruptHold, TellsAGuestOfItsOnlyRequestAtOnce) {
  Model guest{.depth = 1};
  for (unsigned i = 0; i < 100'000; ++i) ASSERT_EQ(guest.round(), 1U);
  // 0.1 µs a request, on the average.
  EXPECT_LE(guest.waited_in_vain, microseconds(10'000));
}

TEST(InterruptHold, TellsAGuestOfManyTogether) {
  Model guest{.depth = 32};
  unsigned interrupts = 0;
  unsigned requests = 0;
  for (; requests < 10'000; ++interrupts) requests += guest.round();
  EXPECT_LE(interrupts, requests / 8);
}

TEST(InterruptHold, WaitsNoMoreOnceAllThatTheGuestHasInFlightHaveEnded) {
  Model guest{.depth = 4};
  unsigned interrupts = 0;
  for (unsigned requests = 0; requests < 40'000; ++interrupts) requests += guest.round();
  EXPECT_LE(interrupts, 11'000U);
  EXPECT_LE(guest.waited_in_vain, microseconds(interrupts));
}

TEST(InterruptHold, ForgetsADepthThatIsOver) {
  Model guest{.depth = 32};
  for (unsigned i = 0; i < 100; ++i) guest.round();
  ASSERT_GT(guest.hold.depth(), 1U);
  guest.depth = 1;
  guest.round();
  EXPECT_EQ(guest.hold.depth(), 1U);
}

TEST(InterruptHold, HoldsNothingWhereTheGuestCouldNotRunMeanwhile) {
  InterruptHold hold(1);
  for (unsigned i = 0; i < 1000; ++i) {
    ASSERT_FALSE(hold.wait(1, [] {
      ADD_FAILURE() << "it waited";
      return true;
    }));
  }
}

}  // namespace
}  // namespace minivmm::test
