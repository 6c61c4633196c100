#include "devices/i8254.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/devices/fakes.h"

namespace minivmm {
namespace {

using namespace std::chrono_literals;
using test::read8;
using test::write8;

// A little more than `n` ticks of the timer's clock.
Clock::duration ticks(double n) {
  return std::chrono::nanoseconds(static_cast<int64_t>(std::ceil((n + 0.1) * 1e9 / kPitHz)));
}

class Pit : public testing::Test {
 protected:
  void program(unsigned channel, unsigned mode, unsigned count, bool bcd = false) {
    write8(pit, 3, channel << 6 | 0x30 | mode << 1 | (bcd ? 1 : 0));
    write8(pit, channel, count & 0xff);
    write8(pit, channel, count >> 8);
  }
  unsigned read_latched(unsigned channel) {
    write8(pit, 3, channel << 6);
    const unsigned low = read8(pit, channel);
    return low | static_cast<unsigned>(read8(pit, channel)) << 8;
  }
  uint8_t status(unsigned channel) {
    write8(pit, 3, 0xe0 | 2U << channel);
    return read8(pit, channel);
  }

  test::FakeTime time;
  test::FakeLine irq;
  I8254 pit{irq, time};
};

TEST_F(Pit, CostsNothingUntilItIsUsed) {
  time.advance(1h);
  EXPECT_EQ(time.expiries, 0);
  EXPECT_FALSE(time.armed());
  program(2, 3, 1000);
  EXPECT_FALSE(time.armed()) << "only channel 0 interrupts";
}

TEST_F(Pit, InterruptsOncePerPeriodInMode2) {
  program(0, 2, 11932);  // Linux's HZ=100
  time.advance(ticks(11931 - 1));
  EXPECT_EQ(irq.rises, 0);
  time.advance(ticks(2));
  EXPECT_EQ(irq.rises, 1);
  time.advance(1s);
  EXPECT_NEAR(irq.rises, 101, 1);
}

TEST_F(Pit, InterruptsOncePerPeriodInMode3) {
  program(0, 3, 0);  // a BIOS's 18.2 Hz
  time.advance(10s);
  EXPECT_EQ(irq.rises, 182);
}

TEST_F(Pit, FiresOnceInMode0AndMode4) {
  program(0, 0, 1193);
  time.advance(900us);
  EXPECT_EQ(irq.rises, 0);
  time.advance(10s);
  EXPECT_EQ(irq.rises, 1);
  program(0, 4, 1193);
  time.advance(10s);
  EXPECT_EQ(irq.rises, 2);
  EXPECT_FALSE(time.armed());
}

TEST_F(Pit, StartsAnewWithEachCountInMode4) {
  write8(pit, 3, 0x38);
  for (int i = 0; i < 5; ++i) {
    write8(pit, 0, 0x00);
    write8(pit, 0, 0x10);
    time.advance(ticks(0xfff));
    EXPECT_EQ(irq.rises, 0);
  }
  time.advance(ticks(2));
  EXPECT_EQ(irq.rises, 1);
}

TEST_F(Pit, StopsInterruptingWhenReprogrammed) {
  program(0, 2, 11932);
  write8(pit, 3, 0x30);
  EXPECT_FALSE(time.armed());
  time.advance(1s);
  EXPECT_EQ(irq.rises, 0);
}

TEST_F(Pit, LosesNoInterruptToALateTimer) {
  program(0, 0, 1193);
  time.advance_unnoticed(5ms);
  read_latched(2);
  EXPECT_EQ(irq.rises, 1) << "the next access finds it due";
  time.advance(1s);
  EXPECT_EQ(irq.rises, 1);
}

TEST_F(Pit, MergesMissedInterrupts) {
  program(0, 2, 1193);
  time.advance_unnoticed(100ms);
  time.advance(1us);
  EXPECT_EQ(irq.rises, 1);
}

TEST_F(Pit, DoesNotLetAGuestStormTheHost) {
  for (const unsigned count : {1U, 2U, 3U}) {
    program(0, 2, count);
    const int before = time.expiries;
    time.advance(100ms);
    EXPECT_LE(time.expiries - before, 510);
    EXPECT_GE(time.expiries - before, 400);
  }
}

TEST_F(Pit, CountsDown) {
  program(0, 2, 1000);
  time.advance(ticks(100));
  EXPECT_EQ(read_latched(0), 900U);
  time.advance(ticks(1000 - 1));
  EXPECT_NEAR(read_latched(0), 900U, 1);
  program(2, 0, 500);
  write8(pit.port61(), 0, 1);
  time.advance(ticks(100));
  EXPECT_EQ(read_latched(2), 400U);
  time.advance(ticks(401));
  EXPECT_NEAR(read_latched(2), 0xffff, 1) << "it counts on past zero";
}

TEST_F(Pit, CountsByTwosInMode3) {
  program(0, 3, 1000);
  time.advance(ticks(100));
  EXPECT_EQ(read_latched(0), 800U);
  time.advance(ticks(500));
  EXPECT_NEAR(read_latched(0), 800U, 2);
}

TEST_F(Pit, CountsInBcd) {
  program(0, 2, 0x1000, true);
  time.advance(ticks(1));
  EXPECT_EQ(read_latched(0), 0x0999U);
}

TEST_F(Pit, HoldsALatchedCountUntilItIsRead) {
  program(0, 2, 0xffff);
  write8(pit, 3, 0x00);
  time.advance(1ms);
  write8(pit, 3, 0x00);
  const unsigned low = read8(pit, 0);
  EXPECT_EQ(low | static_cast<unsigned>(read8(pit, 0)) << 8, 0xffffU);
  EXPECT_LT(read_latched(0), 0xffffU);
}

TEST_F(Pit, ReadsBackStatusBeforeCount) {
  program(0, 2, 0x1234);
  write8(pit, 3, 0xc2);
  EXPECT_EQ(read8(pit, 0), 0xb4);  // output high, count loaded, both bytes, mode 2
  EXPECT_EQ(read8(pit, 0), 0x34);
  EXPECT_EQ(read8(pit, 0), 0x12);
  write8(pit, 3, 0x36);
  EXPECT_EQ(status(0), 0xf6) << "no count since the control word";
}

TEST_F(Pit, TakesSingleBytesWhereTheControlWordSaysSo) {
  write8(pit, 3, 0x10 | 2 << 1);
  write8(pit, 0, 50);
  EXPECT_EQ(read8(pit, 0), 50);
  write8(pit, 3, 0x20 | 2 << 1);
  write8(pit, 0, 0x12);
  EXPECT_EQ(read8(pit, 0), 0x12);
}

TEST_F(Pit, ChangesThePeriodAtItsEnd) {
  program(0, 2, 12000);
  write8(pit, 0, 6000 & 0xff);
  write8(pit, 0, 6000 >> 8);
  time.advance(ticks(11998));
  EXPECT_EQ(irq.rises, 0);
  time.advance(ticks(3));
  EXPECT_EQ(irq.rises, 1);
}

// Linux's pit_calibrate_tsc(): channel 2 in mode 0 behind port 0x61.
TEST_F(Pit, LetsLinuxCalibrateWithChannel2) {
  IoDevice& port61 = pit.port61();
  write8(port61, 0, (read8(port61, 0) & ~0x02U) | 0x01);
  write8(pit, 3, 0xb0);
  write8(pit, 2, 11931 & 0xff);
  write8(pit, 2, 11931 >> 8);
  EXPECT_EQ(read8(port61, 0) & 0x20, 0);
  time.advance(9990us);
  EXPECT_EQ(read8(port61, 0) & 0x20, 0);
  time.advance(20us);
  EXPECT_EQ(read8(port61, 0) & 0x20, 0x20);
  EXPECT_EQ(irq.rises, 0);
}

TEST_F(Pit, StandsStillWhileChannel2sGateIsLow) {
  IoDevice& port61 = pit.port61();
  write8(port61, 0, 1);
  program(2, 0, 1000);
  time.advance(ticks(100));
  write8(port61, 0, 0);
  time.advance(1s);
  EXPECT_EQ(read_latched(2), 900U);
  write8(port61, 0, 1);
  time.advance(ticks(100));
  EXPECT_NEAR(read_latched(2), 800U, 1);
}

TEST_F(Pit, TriggersModes1And5ByTheGate) {
  IoDevice& port61 = pit.port61();
  write8(port61, 0, 0);
  program(2, 1, 1000);
  time.advance(1s);
  EXPECT_EQ(read8(port61, 0) & 0x20, 0x20);
  write8(port61, 0, 1);
  EXPECT_EQ(read8(port61, 0) & 0x20, 0);
  time.advance(ticks(1000));
  EXPECT_EQ(read8(port61, 0) & 0x20, 0x20);
  write8(port61, 0, 0);
  program(2, 5, 1000);
  write8(port61, 0, 1);
  time.advance(ticks(1000));
  EXPECT_EQ(read8(port61, 0) & 0x20, 0);
  time.advance(ticks(1));
  EXPECT_EQ(read8(port61, 0) & 0x20, 0x20);
}

TEST_F(Pit, TogglesTheRefreshBit) {
  const uint8_t before = read8(pit.port61(), 0) & 0x10;
  time.advance(ticks(18));
  EXPECT_NE(read8(pit.port61(), 0) & 0x10, before);
}

TEST_F(Pit, StandsStillWhilePaused) {
  program(0, 2, 10000);
  time.advance(ticks(1000));
  pit.pause();
  const unsigned count = read_latched(0);
  time.advance(1h);
  EXPECT_EQ(irq.rises, 0);
  EXPECT_EQ(read_latched(0), count);
  pit.resume();
  time.advance(ticks(8990));
  EXPECT_EQ(irq.rises, 0);
  time.advance(ticks(20));
  EXPECT_EQ(irq.rises, 1);
}

TEST_F(Pit, GoesOnAfterSaveAndLoad) {
  program(0, 2, 10000);
  write8(pit, 3, 0x80);
  time.advance(ticks(2500));
  pit.pause();
  const auto state = test::saved(pit);

  test::FakeTime later;
  later.advance(300h);
  test::FakeLine irq2;
  I8254 copy(irq2, later);
  copy.pause();
  ASSERT_TRUE(test::load(copy, state));
  EXPECT_EQ(test::saved(copy), state);
  later.advance(1h);
  copy.resume();
  later.advance(ticks(7400));
  EXPECT_EQ(irq2.rises, 0);
  later.advance(ticks(200));
  EXPECT_EQ(irq2.rises, 1);
}

TEST_F(Pit, TakesOrRefusesDamagedState) {
  program(0, 3, 1001);
  program(2, 4, 5, true);
  time.advance(1ms);
  pit.pause();
  test::load_damaged(pit, test::saved(pit));
}

TEST_F(Pit, SurvivesHostileAccesses) {
  test::poke_everywhere(pit, kPitPorts);
  test::poke_everywhere(pit.port61(), 1);
  for (unsigned control = 0; control < 256; ++control) {
    write8(pit, 3, control);
    for (unsigned channel = 0; channel < 3; ++channel) {
      for (const unsigned v : {0U, 1U, 0xffU}) {
        write8(pit, channel, v);
        read8(pit, channel);
        write8(pit.port61(), 0, v);
        time.advance(100us);
        read8(pit.port61(), 0);
      }
    }
  }
}

TEST_F(Pit, IsStillAfterReset) {
  program(0, 2, 1193);
  pit.reset();
  time.advance(1s);
  EXPECT_EQ(irq.rises, 0);
}

}  // namespace
}  // namespace minivmm
