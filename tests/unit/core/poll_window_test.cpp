#include "vmm/core/poll_window.h"

#include <gtest/gtest.h>

namespace minivmm {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

PollWindow::Clock::time_point now;
PollWindow::Duration step;  // how far the clock moves with each look at it

PollWindow::Clock::time_point look() {
  now += step;
  return now;
}

class PollWindowTest : public testing::Test {
 protected:
  PollWindowTest() {
    now = PollWindow::Clock::time_point{} + std::chrono::hours(1);
    step = microseconds(1);
  }
  // Work comes so long after there was none.
  void work_after(PollWindow::Duration wait) {
    const auto began = now;
    if (window_.wait([&] { return now - began >= wait; })) return;
    now = std::max(now, began + wait);
    window_.woken();
  }
  PollWindow window_{2, look};
};

TEST_F(PollWindowTest, DoesNotLookBeforeThatHasPaid) {
  EXPECT_EQ(window_.window(), microseconds(0));
  EXPECT_FALSE(window_.wait([] { return false; }));
  EXPECT_TRUE(window_.wait([] { return true; }));
}

TEST_F(PollWindowTest, LooksAsLongAsWorkTakesToCome) {
  work_after(microseconds(40));
  EXPECT_GE(window_.window(), microseconds(40));
  EXPECT_LE(window_.window(), microseconds(100));
  const auto began = now;
  EXPECT_TRUE(window_.wait([&] { return now - began >= microseconds(40); }));
}

TEST_F(PollWindowTest, NeverLooksLongerThanItsMaximum) {
  for (int i = 0; i < 10; ++i) work_after(PollWindow::kMax - microseconds(5));
  EXPECT_EQ(window_.window(), PollWindow::kMax);
}

TEST_F(PollWindowTest, SleepsAtOnceAfterALongWait) {
  work_after(microseconds(40));
  work_after(milliseconds(5));
  EXPECT_EQ(window_.window(), microseconds(0));
}

TEST_F(PollWindowTest, LeavesTheCpuToOthersWhoWantIt) {
  work_after(microseconds(50));
  step = 2 * PollWindow::kPreempted;  // somebody else ran meanwhile
  EXPECT_FALSE(window_.wait([] { return false; }));
  step = microseconds(1);
  EXPECT_EQ(window_.window(), microseconds(0));
  work_after(microseconds(50));
  EXPECT_EQ(window_.window(), microseconds(0));
  now += PollWindow::kHoldOff;
  work_after(microseconds(50));
  EXPECT_NE(window_.window(), microseconds(0));
}

TEST_F(PollWindowTest, NeverLooksWithOneCpu) {
  window_ = PollWindow(1, look);
  for (int i = 0; i < 10; ++i) work_after(microseconds(10));
  EXPECT_EQ(window_.window(), microseconds(0));
}

}  // namespace
}  // namespace minivmm
