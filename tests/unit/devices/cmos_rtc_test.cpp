#include "devices/cmos_rtc.h"

#include <gtest/gtest.h>

#include "tests/unit/devices/fakes.h"

namespace minivmm {
namespace {

namespace chrono = std::chrono;
using namespace std::chrono_literals;
using test::read8;
using test::write8;

constexpr chrono::sys_days kDay = chrono::year(2026) / 11 / 20;  // a Friday

class Rtc : public testing::Test {
 protected:
  CmosRtc::WallClock wall() {
    return [this] {
      return chrono::system_clock::time_point(
          (kDay + 13h + 37min + 5s).time_since_epoch() +
          chrono::duration_cast<chrono::system_clock::duration>(time.now() - start) + wall_step);
    };
  }
  uint8_t get(unsigned index) {
    write8(rtc, 0, index);
    return read8(rtc, 1);
  }
  void put(unsigned index, unsigned v) {
    write8(rtc, 0, index);
    write8(rtc, 1, v);
  }

  test::FakeTime time;
  Clock::time_point start = time.now();
  chrono::system_clock::duration wall_step{0};
  test::FakeLine irq;
  CmosRtc rtc{irq, time, wall()};
};

TEST_F(Rtc, TellsTheHostsTimeInBcd) {
  EXPECT_EQ(get(0), 0x05);
  EXPECT_EQ(get(2), 0x37);
  EXPECT_EQ(get(4), 0x13);
  EXPECT_EQ(get(6), 0x06);
  EXPECT_EQ(get(7), 0x20);
  EXPECT_EQ(get(8), 0x11);
  EXPECT_EQ(get(9), 0x26);
  EXPECT_EQ(get(kRtcCenturyIndex), 0x20);
  EXPECT_EQ(get(0x0d), 0x80);
  time.advance(1h);
  EXPECT_EQ(get(4), 0x14);
  EXPECT_EQ(time.expiries, 0);
}

TEST_F(Rtc, IgnoresTheNmiBit) {
  EXPECT_EQ(get(0x80 | 4), 0x13);
}

TEST_F(Rtc, TellsBinaryAndTwelveHours) {
  put(0x0b, 0x04);
  EXPECT_EQ(get(4), 0x81);
  EXPECT_EQ(get(2), 37);
  put(0x0b, 0x00);
  EXPECT_EQ(get(4), 0x81);
  time.advance(11h);
  EXPECT_EQ(get(4), 0x12) << "half past midnight is 12 AM";
  time.advance(12h);
  EXPECT_EQ(get(4), 0x92) << "and half past noon 12 PM";
}

TEST_F(Rtc, IsUpdatingJustBeforeTheSecondTurns) {
  EXPECT_EQ(get(0x0a), 0x26);
  time.advance(999800us);
  EXPECT_EQ(get(0x0a), 0xa6);
  EXPECT_EQ(get(0), 0x05);
  time.advance(200us);
  EXPECT_EQ(get(0x0a), 0x26);
  EXPECT_EQ(get(0), 0x06);
}

// As Linux's mc146818_set_time() does it.
TEST_F(Rtc, KeepsTheTimeTheGuestSets) {
  const uint8_t control = get(0x0b);
  put(0x0b, control | 0x80);
  const uint8_t freq = get(0x0a);
  put(0x0a, freq | 0x70);
  put(9, 0x99);
  put(8, 0x12);
  put(7, 0x31);
  put(4, 0x23);
  put(2, 0x59);
  put(0, 0x58);
  put(kRtcCenturyIndex, 0x19);
  time.advance(5s);
  EXPECT_EQ(get(0), 0x58) << "it stands still meanwhile";
  put(0x0b, control);
  put(0x0a, freq);
  EXPECT_EQ(get(0), 0x58);
  time.advance(3s);
  EXPECT_EQ(get(0), 0x01);
  EXPECT_EQ(get(9), 0x00);
  EXPECT_EQ(get(kRtcCenturyIndex), 0x20);
  EXPECT_EQ(get(8), 0x01);
  wall_step = 1h;
  EXPECT_EQ(get(4), 0x01) << "and follows the host's clock from there";
}

TEST_F(Rtc, IgnoresDatesThatDoNotExist) {
  put(0x0b, 0x82);
  put(8, 0x13);
  put(0x0b, 0x02);
  EXPECT_EQ(get(8), 0x11);
  put(0x0b, 0x82);
  put(7, 0x31);  // 31 November
  put(0x0b, 0x02);
  EXPECT_EQ(get(7), 0x20);
  put(0, 0xfa);
  EXPECT_EQ(get(0), 0x05);
}

TEST_F(Rtc, ReachesTheYears0To9999) {
  for (const unsigned century : {0x00U, 0x99U}) {
    put(kRtcCenturyIndex, century);
    EXPECT_EQ(get(kRtcCenturyIndex), century);
    EXPECT_EQ(get(8), 0x11);
  }
  put(9, 0x99);
  put(8, 0x12);
  time.advance(24h * 60);
  get(9);
}

TEST_F(Rtc, InterruptsAtEachUpdate) {
  put(0x0b, 0x12);
  time.advance(999ms);
  EXPECT_EQ(irq.rises, 0);
  time.advance(1ms);
  EXPECT_TRUE(irq.high());
  EXPECT_EQ(get(0x0c) & 0xb0, 0x90);
  EXPECT_FALSE(irq.high());
  EXPECT_EQ(get(0x0c), 0x00);
  time.advance(10s);
  EXPECT_EQ(irq.rises, 2) << "none before register C is read";
}

TEST_F(Rtc, InterruptsAtTheAlarm) {
  put(1, 0x10);
  put(3, 0x37);
  put(5, 0x13);
  put(0x0b, 0x22);
  time.advance(4900ms);
  EXPECT_EQ(irq.rises, 0);
  time.advance(100ms);
  EXPECT_EQ(irq.rises, 1);
  EXPECT_EQ(get(0x0c) & 0xb0, 0xb0);
  time.advance(23h);
  EXPECT_EQ(irq.rises, 1);
  time.advance(1h);
  EXPECT_EQ(irq.rises, 2) << "and again the next day";
}

TEST_F(Rtc, TakesDontCareInAlarms) {
  put(1, 0x00);
  put(3, 0xc0);
  put(5, 0xff);
  put(0x0b, 0x22);
  time.advance(55s);
  EXPECT_EQ(irq.rises, 1);
  get(0x0c);
  time.advance(60s);
  EXPECT_EQ(irq.rises, 2);
}

TEST_F(Rtc, NeverMatchesAnAlarmThatIsNoTime) {
  put(1, 0x7f);
  put(3, 0xc0);
  put(5, 0xc0);
  put(0x0b, 0x22);
  time.advance(48h);
  EXPECT_EQ(irq.rises, 0);
  put(1, 0xc0);
  put(5, 0x24);
  time.advance(48h);
  EXPECT_EQ(irq.rises, 0);
}

TEST_F(Rtc, InterruptsPeriodically) {
  put(0x0b, 0x42);  // 1024 Hz
  int count = 0;
  for (int i = 0; i < 10000; ++i) {
    time.advance(100us);
    if (irq.high()) {
      ++count;
      EXPECT_EQ(get(0x0c) & 0xc0, 0xc0);
    }
  }
  EXPECT_NEAR(count, 1024, 2);
}

TEST_F(Rtc, ShowsFlagsToAGuestThatPolls) {
  EXPECT_EQ(get(0x0c), 0x00);
  time.advance(1s);
  EXPECT_EQ(get(0x0c) & 0x50, 0x50) << "update and period, with no interrupt enabled";
  EXPECT_EQ(irq.rises, 0);
  EXPECT_EQ(time.expiries, 0);
}

TEST_F(Rtc, KeepsItsMemory) {
  for (unsigned i = 0x0e; i < 0x80; ++i) {
    if (i != kRtcCenturyIndex) put(i, i ^ 0x55);
  }
  rtc.reset();
  for (unsigned i = 0x0e; i < 0x80; ++i) {
    if (i != kRtcCenturyIndex) {
      EXPECT_EQ(get(i), i ^ 0x55);
    }
  }
}

TEST_F(Rtc, IsSilentAfterReset) {
  put(0x0b, 0x72);
  rtc.reset();
  time.advance(10s);
  EXPECT_EQ(irq.rises, 0);
  EXPECT_FALSE(time.armed());
}

TEST_F(Rtc, IsSilentWhilePausedAndCatchesUp) {
  put(0x0b, 0x12);
  rtc.pause();
  time.advance(10s);
  EXPECT_EQ(irq.rises, 0);
  rtc.resume();
  EXPECT_EQ(irq.rises, 1);
}

TEST_F(Rtc, NoticesAnAlarmThatPassedWhileSaved) {
  put(1, 0x00);
  put(3, 0x00);
  put(5, 0x15);
  put(0x0b, 0x22);
  put(0x40, 0x99);
  const auto state = test::saved(rtc);
  time.advance_unnoticed(2h);
  test::FakeLine irq2;
  CmosRtc copy(irq2, time, wall());
  ASSERT_TRUE(test::load(copy, state));
  EXPECT_TRUE(irq2.high());
  write8(copy, 0, 0x40);
  EXPECT_EQ(read8(copy, 1), 0x99);
}

TEST_F(Rtc, KeepsTheGuestsOffsetOverSaveAndLoad) {
  put(9, 0x30);
  test::FakeLine irq2;
  CmosRtc copy(irq2, time, wall());
  ASSERT_TRUE(test::load(copy, test::saved(rtc)));
  EXPECT_EQ(test::saved(copy), test::saved(rtc));
  write8(copy, 0, 9);
  EXPECT_EQ(read8(copy, 1), 0x30);
}

TEST_F(Rtc, TakesOrRefusesDamagedState) {
  put(0x0b, 0x72);
  test::load_damaged(rtc, test::saved(rtc));
}

TEST_F(Rtc, SurvivesHostileAccesses) {
  test::poke_everywhere(rtc, kRtcPorts);
  for (unsigned index = 0; index < 256; ++index) {
    for (unsigned v = 0; v < 256; v += 5) {
      put(index, v);
      get(index);
      time.advance(13ms);
    }
  }
}

}  // namespace
}  // namespace minivmm
