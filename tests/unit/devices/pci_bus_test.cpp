#include "devices/pci/bus.h"

#include <gtest/gtest.h>

#include "tests/unit/devices/pci_fakes.h"

namespace minivmm {
namespace {

using test::place_of;
using test::read32;
using test::SampleFunction;
using test::write32;

constexpr uint64_t kMmio32 = 0xc0000000;
constexpr uint64_t kMmio64 = uint64_t{1} << 38;
constexpr unsigned kCommand = 0x04;
constexpr unsigned kBar0 = 0x10;
constexpr unsigned kBar3 = 0x1c;

class PciTest : public testing::Test {
 protected:
  PciTest() {
    EXPECT_TRUE(pci.add(1, function));
    EXPECT_TRUE(pci.assign_bars());
  }
  PciBus::Options options() {
    return {.mmio32 = {kMmio32, 0x10000000},
            .mmio64 = {kMmio64, uint64_t{1} << 34},
            .overlaps_ram = [](Gpa base, uint64_t) { return value(base) < 0x80000000; }};
  }
  uint32_t ecam(unsigned slot, unsigned fn, unsigned offset) {
    return read32(pci.ecam(), slot << 15 | fn << 12 | offset);
  }

  Log log;
  Bus mmio;
  test::FakeDoorbells doorbells;
  test::FakeMsi msi;
  PciBus pci{mmio, doorbells, options(), log};
  test::ConfigAccess config{pci};
  SampleFunction function{"sample", msi};
};

TEST_F(PciTest, HasAHostBridgeAndNobodyElsewhere) {
  EXPECT_EQ(config.read(0, 0x0a, 2), 0x0600U);
  EXPECT_EQ(config.read(1, 0, 4), 0x10421af4U);
  EXPECT_EQ(config.read(2, 0, 4), 0xffffffffU);
  EXPECT_EQ(config.read(31, 0, 2), 0xffffU);
  EXPECT_EQ(ecam(1, 0, 0), 0x10421af4U);
  EXPECT_EQ(ecam(1, 1, 0), 0xffffffffU) << "no function 1";
  EXPECT_EQ(ecam(1, 0, 0x100), 0U) << "no extended capabilities";
}

TEST_F(PciTest, AnswersOnlyWhenEnabledAndOnBus0) {
  write32(pci.config_ports(), 0, 0x00000800);
  EXPECT_EQ(read32(pci.config_ports(), 4), 0xffffffffU);
  write32(pci.config_ports(), 0, 0x80010800);
  EXPECT_EQ(read32(pci.config_ports(), 4), 0xffffffffU);
  write32(pci.config_ports(), 0, 0xff000803 | 0x80000000);
  EXPECT_EQ(read32(pci.config_ports(), 0), 0x80000800U) << "reserved bits read as zero";
}

// Linux's pci_check_type1().
TEST_F(PciTest, PassesLinuxsProbe) {
  const std::array one{std::byte{1}};
  pci.config_ports().write(3, one);
  write32(pci.config_ports(), 0, 0x80000000);
  EXPECT_EQ(read32(pci.config_ports(), 0), 0x80000000U);
  EXPECT_EQ(config.read(0, 0x0a, 2), 0x0600U);
}

TEST_F(PciTest, ReadsBytesAndWords) {
  EXPECT_EQ(config.read(1, 0x02, 2), 0x1042U);
  EXPECT_EQ(config.read(1, 0x03, 1), 0x10U);
  EXPECT_EQ(config.read(1, 0x2e, 2), 0x40U);
  EXPECT_EQ(config.read(1, 0x3d, 1), 0U) << "no INTx";
}

TEST_F(PciTest, RefusesSlotsThatAreTakenOrDoNotExist) {
  SampleFunction other("other", msi);
  EXPECT_EQ(pci.add(0, other).error().code, Errc::no_space);
  EXPECT_EQ(pci.add(1, other).error().code, Errc::no_space);
  EXPECT_EQ(pci.add(32, other).error().code, Errc::out_of_range);
}

TEST_F(PciTest, AssignsAlignedBarsInBothWindows) {
  const auto bar0 = place_of(mmio, function.bar_device(0));
  const auto bar2 = place_of(mmio, &function.msix);
  const auto bar3 = place_of(mmio, function.bar_device(3));
  ASSERT_TRUE(bar0 && bar2 && bar3);
  EXPECT_EQ(bar0->base, kMmio64);
  EXPECT_EQ(bar0->size, SampleFunction::kBar0Size);
  EXPECT_EQ(bar2->base, kMmio32);
  EXPECT_EQ(bar3->base, kMmio32 + 0x1000);
  EXPECT_EQ(config.read(1, kBar0, 4), 0x0000000cU);
  EXPECT_EQ(config.read(1, kBar0 + 4, 4), 0x40U);
  EXPECT_EQ(config.read(1, kCommand, 2), 0x0002U);
  EXPECT_EQ(doorbells.attached.size(), 2U);
}

TEST_F(PciTest, SaysWhenTheWindowsAreTooSmall) {
  Bus other_mmio;
  PciBus small(other_mmio, doorbells, {.mmio32 = {kMmio32, 0x3000}, .mmio64 = {}, .overlaps_ram = {}}, log);
  SampleFunction one("one", msi);
  ASSERT_TRUE(small.add(3, one));
  EXPECT_EQ(small.assign_bars().error().code, Errc::no_space);
  EXPECT_FALSE(place_of(other_mmio, one.bar_device(0)));
  EXPECT_TRUE(place_of(other_mmio, &one.msix));
}

// PCI 3.0, 6.2.5.1: write all ones, read the size back.
TEST_F(PciTest, SizesBars) {
  config.write(1, kCommand, 2, 0);
  EXPECT_TRUE(mmio.map()->ranges().empty());
  EXPECT_TRUE(doorbells.attached.empty());
  config.write(1, kBar0, 4, 0xffffffff);
  config.write(1, kBar0 + 4, 4, 0xffffffff);
  EXPECT_EQ(config.read(1, kBar0, 4), 0xffffc00cU);
  EXPECT_EQ(config.read(1, kBar0 + 4, 4), 0xffffffffU);
  config.write(1, kBar3, 4, 0xffffffff);
  EXPECT_EQ(config.read(1, kBar3, 4), 0xffffffe0U);
  for (const unsigned absent : {0x20U, 0x24U, 0x30U}) {
    config.write(1, absent, 4, 0xffffffff);
    EXPECT_EQ(config.read(1, absent, 4), 0U);
  }
}

TEST_F(PciTest, SizingWithDecodingOnHarmsNothing) {
  const uint32_t before = config.read(1, kBar3, 4);
  config.write(1, kBar0, 4, 0xffffffff);
  config.write(1, kBar0 + 4, 4, 0xffffffff);
  config.write(1, kBar3, 4, 0xffffffff);
  config.write(1, kBar3, 4, before);
  EXPECT_EQ(place_of(mmio, function.bar_device(3))->base, before);
}

TEST_F(PciTest, MovesWindowsAndDoorbellsWithTheBar) {
  config.write(1, kBar0, 4, 0xd0000000);
  config.write(1, kBar0 + 4, 4, 0);
  EXPECT_EQ(place_of(mmio, function.bar_device(0))->base, 0xd0000000U);
  ASSERT_EQ(doorbells.attached.size(), 2U);
  EXPECT_EQ(doorbells.attached.begin()->first, 0xd0000000U);
  config.write(1, kCommand, 1, 0);
  EXPECT_TRUE(doorbells.attached.empty());
  config.write(1, kCommand, 1, 2);
  EXPECT_EQ(doorbells.attached.size(), 2U);
}

TEST_F(PciTest, DoesNotPlaceABarOnRam) {
  config.write(1, kBar3, 4, 0x1000);
  EXPECT_FALSE(place_of(mmio, function.bar_device(3)));
  config.write(1, kBar3, 4, kMmio32 + 0x8000);
  EXPECT_TRUE(place_of(mmio, function.bar_device(3)));
}

TEST_F(PciTest, DoesNotPlaceABarOnAnotherDeviceUntilThatGoes) {
  test::Registers fixed;
  ASSERT_TRUE(mmio.insert({0xfec00000, 0x1000, &fixed}));
  config.write(1, kBar3, 4, 0xfec00020);
  EXPECT_FALSE(place_of(mmio, function.bar_device(3)));
  EXPECT_TRUE(place_of(mmio, &fixed));

  SampleFunction second("second", msi);
  ASSERT_TRUE(pci.add(2, second));
  ASSERT_TRUE(pci.assign_bars());
  const uint64_t taken = place_of(mmio, &second.msix)->base;
  config.write(1, kBar3, 4, static_cast<uint32_t>(taken));
  EXPECT_FALSE(place_of(mmio, function.bar_device(3)));
  config.write(2, kCommand, 2, 0);
  EXPECT_EQ(place_of(mmio, function.bar_device(3))->base, taken);
}

TEST_F(PciTest, PlacesAWindowEvenWithoutDoorbells) {
  config.write(1, kCommand, 2, 0);
  doorbells.refuse = true;
  config.write(1, kCommand, 2, 2);
  EXPECT_TRUE(place_of(mmio, function.bar_device(0)));
  config.write(1, kCommand, 2, 0);
}

TEST_F(PciTest, ListsCapabilitiesAndKeepsTheirMasks) {
  EXPECT_EQ(config.read(1, 0x06, 2) & 0x10, 0x10U);
  const uint32_t first = config.read(1, 0x34, 1);
  EXPECT_EQ(config.read(1, first, 1), kPciCapMsix);
  EXPECT_EQ(config.read(1, first + 2, 2), 3U);
  EXPECT_EQ(config.read(1, first + 4, 4), 2U) << "table in BAR 2 at 0";
  EXPECT_EQ(config.read(1, first + 8, 4), 0x800U | 2U);
  const uint32_t second = config.read(1, first + 1, 1);
  EXPECT_EQ(second, function.capability);
  EXPECT_EQ(second % 4, 0U);
  EXPECT_EQ(config.read(1, second + 1, 1), 0U);
  config.write(1, second, 4, 0xffffffff);
  EXPECT_EQ(config.read(1, second, 4), 0xff100009U);
  config.write(1, second + 4, 1, 0xf0);
  EXPECT_EQ(config.read(1, second + 4, 1), 0xb0U);
}

TEST_F(PciTest, ClearsErrorBitsByWritingOnes) {
  function.config().set16(0x06, 0xf910);
  config.write(1, 0x06, 2, 0x0100);
  EXPECT_EQ(config.read(1, 0x06, 2), 0xf810U);
  config.write(1, 0x06, 2, 0xffff);
  EXPECT_EQ(config.read(1, 0x06, 2), 0x0010U);
}

TEST_F(PciTest, CallsHooksForWritesThatTouchTheirRegisters) {
  int calls = 0;
  function.config().on_write(0x3c, 1, [&] { ++calls; });
  config.write(1, 0x3c, 1, 7);
  ecam(1, 0, 0x3c);
  EXPECT_EQ(calls, 1);
  config.write(1, 0x3e, 2, 7);
  EXPECT_EQ(calls, 1);
  write32(pci.ecam(), 1 << 15 | 0x3c, 9);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(config.read(1, 0x3c, 4), 9U);
}

TEST_F(PciTest, TakesAFunctionOffWhenItIsDestroyed) {
  {
    SampleFunction second("second", msi);
    ASSERT_TRUE(pci.add(2, second));
    ASSERT_TRUE(pci.assign_bars());
    EXPECT_EQ(mmio.map()->ranges().size(), 6U);
  }
  EXPECT_EQ(mmio.map()->ranges().size(), 3U);
  EXPECT_EQ(doorbells.attached.size(), 2U);
  EXPECT_EQ(config.read(2, 0, 4), 0xffffffffU);
}

TEST_F(PciTest, LeavesNothingBehindOnTheBus) {
  Bus other_mmio;
  test::FakeDoorbells other_doorbells;
  SampleFunction one("one", msi);
  {
    PciBus bus(other_mmio, other_doorbells, options(), log);
    ASSERT_TRUE(bus.add(5, one));
    ASSERT_TRUE(bus.assign_bars());
    EXPECT_EQ(other_mmio.map()->ranges().size(), 3U);
  }
  EXPECT_TRUE(other_mmio.map()->ranges().empty());
  EXPECT_TRUE(other_doorbells.attached.empty());
}

TEST_F(PciTest, ResetsToWhatTheMachineStartedWith) {
  const uint64_t bar3 = place_of(mmio, function.bar_device(3))->base;
  config.write(1, kBar3, 4, 0xd0000000);
  config.write(1, kCommand, 2, 0xffff);
  config.write(1, 0x3c, 1, 11);
  const uint32_t capability = config.read(1, 0x34, 1);
  config.write(1, capability + 2, 2, 0x8000);
  pci.reset();
  EXPECT_EQ(function.resets, 1);
  EXPECT_EQ(config.read(1, kCommand, 2), 2U);
  EXPECT_EQ(config.read(1, 0x3c, 1), 0U);
  EXPECT_FALSE(function.msix.enabled());
  EXPECT_EQ(place_of(mmio, function.bar_device(3))->base, bar3);
}

TEST_F(PciTest, PutsWindowsBackOnLoad) {
  config.write(1, kBar3, 4, 0xd0000000);
  config.write(1, 0x3c, 1, 11);
  const auto function_state = test::saved(function);
  const auto bus_state = test::saved(pci);

  Bus other_mmio;
  test::FakeDoorbells other_doorbells;
  PciBus bus(other_mmio, other_doorbells, options(), log);
  SampleFunction copy("sample", msi);
  ASSERT_TRUE(bus.add(1, copy));
  ASSERT_TRUE(test::load(copy, function_state));
  ASSERT_TRUE(test::load(bus, bus_state));
  EXPECT_EQ(place_of(other_mmio, copy.bar_device(3))->base, 0xd0000000U);
  EXPECT_EQ(place_of(other_mmio, copy.bar_device(0))->base, kMmio64);
  EXPECT_EQ(other_doorbells.attached.size(), 2U);
  EXPECT_EQ(test::saved(copy), function_state);
  EXPECT_EQ(test::saved(bus), bus_state);
}

TEST_F(PciTest, RefusesTheStateOfAnotherMake) {
  class Other final : public PciFunction {
   public:
    Other() : PciFunction({.vendor = 1, .device = 2, .class_code = 3}) {}
    std::string_view state_name() const override { return "other"; }
    void save(StateWriter& w) const override { save_pci(w); }
    Result<void> load(StateReader& r) override { return load_pci(r); }
    void function_reset() override {}
  };
  Other other;
  EXPECT_FALSE(test::load(other, test::saved(function)));
  EXPECT_FALSE(test::load(function, test::saved(other)));
  SampleFunction more_vectors("more", msi, 8);
  EXPECT_FALSE(test::load(more_vectors, test::saved(function)));
  EXPECT_FALSE(test::load(function, test::saved(more_vectors)));
}

TEST_F(PciTest, TakesOrRefusesDamagedState) {
  test::load_damaged(function, test::saved(function));
  test::load_damaged(pci, test::saved(pci));
}

TEST_F(PciTest, SurvivesHostileAccesses) {
  test::poke_everywhere(pci.config_ports(), kPciConfigPortsSize);
  std::array<std::byte, 8> data{};
  data.fill(std::byte{0xa5});
  for (const size_t width : {size_t{1}, size_t{2}, size_t{4}, size_t{8}}) {
    for (uint64_t offset = 0; offset < 0x11000; ++offset) {
      pci.ecam().write(offset, std::span(data).first(width));
      pci.ecam().read(offset, std::span(data).first(width));
    }
    EXPECT_EQ(pci.ecam().read(kPciEcamSize, std::span(data).first(width)), IoStatus::bad_access);
    EXPECT_EQ(pci.ecam().write(~uint64_t{0}, std::span(data).first(width)), IoStatus::bad_access);
  }
}

}  // namespace
}  // namespace minivmm
