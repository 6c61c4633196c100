#include "devices/acpi_pm.h"

#include <gtest/gtest.h>

#include "tests/unit/devices/fakes.h"

namespace minivmm {
namespace {

using test::read32;
using test::write8;

class Power : public testing::Test {
 protected:
  test::FakeLine ged;
  int offs = 0;
  int resets = 0;
  AcpiPm pm{ged, [this] { ++offs; }, [this] { ++resets; }};
};

TEST_F(Power, PowersOffByS5Only) {
  write8(pm, kAcpiSleepControl, 3U << kAcpiSleepTypeShift | kAcpiSleepEnable);
  write8(pm, kAcpiSleepControl, kAcpiS5Type << kAcpiSleepTypeShift);
  EXPECT_EQ(offs, 0);
  write8(pm, kAcpiSleepControl, kAcpiS5Type << kAcpiSleepTypeShift | kAcpiSleepEnable);
  EXPECT_EQ(offs, 1);
}

TEST_F(Power, ResetsByItsValueOnly) {
  write8(pm, kAcpiReset, 0);
  EXPECT_EQ(resets, 0);
  write8(pm, kAcpiReset, kAcpiResetValue);
  EXPECT_EQ(resets, 1);
}

TEST_F(Power, TellsOfThePowerButtonOnce) {
  EXPECT_EQ(read32(pm, kAcpiGedEvents), 0U);
  pm.press_power_button();
  EXPECT_EQ(ged.rises, 1);
  EXPECT_FALSE(ged.high());
  EXPECT_EQ(read32(pm, kAcpiGedEvents), kGedPowerButton);
  EXPECT_EQ(read32(pm, kAcpiGedEvents), 0U);
}

TEST_F(Power, GathersEventsUntilTheyAreRead) {
  pm.raise(kGedPciHotplug);
  pm.press_power_button();
  EXPECT_EQ(ged.rises, 2);
  EXPECT_EQ(read32(pm, kAcpiGedEvents), kGedPciHotplug | kGedPowerButton);
}

TEST_F(Power, SurvivesHostileAccesses) {
  test::poke_everywhere(pm, kAcpiPmPorts);
}

TEST_F(Power, SavesAndLoadsAPendingEvent) {
  pm.press_power_button();
  test::FakeLine line;
  AcpiPm copy(line, [] {}, [] {});
  ASSERT_TRUE(test::load(copy, test::saved(pm)));
  EXPECT_EQ(read32(copy, kAcpiGedEvents), kGedPowerButton);
  test::load_damaged(copy, test::saved(pm));
  copy.raise(1);
  copy.reset();
  EXPECT_EQ(read32(copy, kAcpiGedEvents), 0U);
}

}  // namespace
}  // namespace minivmm
