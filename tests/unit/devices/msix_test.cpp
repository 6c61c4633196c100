#include "devices/pci/msix.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/unit/devices/pci_fakes.h"

namespace minivmm {
namespace {

using test::read32;
using test::write32;

constexpr uint16_t kEnable = 0x8000;
constexpr uint16_t kMaskAll = 0x4000;

class MsixTest : public testing::Test {
 protected:
  // Message control through the configuration space, as the bus writes it.
  void control(uint16_t v) {
    std::array<std::byte, 2> data{};
    store_le(data, v);
    function.config_write(static_cast<uint16_t>(function.config().get16(0x34) + 2), data);
  }
  void message(uint64_t vector, uint32_t data, uint64_t address = 0xfee00000) {
    write32(msix, vector * 16, static_cast<uint32_t>(address));
    write32(msix, vector * 16 + 4, static_cast<uint32_t>(address >> 32));
    write32(msix, vector * 16 + 8, data);
  }
  void mask(uint64_t vector, bool on) { write32(msix, vector * 16 + 12, on ? 1 : 0); }
  uint32_t pending() { return read32(msix, 0x800); }

  test::FakeMsi sink;
  test::SampleFunction function{"sample", sink};
  Msix& msix = function.msix;
};

TEST_F(MsixTest, StartsMaskedAndOff) {
  EXPECT_FALSE(msix.enabled());
  EXPECT_EQ(read32(msix, 12), 1U);
  msix.trigger(0);
  EXPECT_EQ(pending(), 0U) << "with MSI-X off an interrupt is lost";
  EXPECT_EQ(sink.allocated, 0);
}

TEST_F(MsixTest, DeliversWhatTheGuestProgrammed) {
  control(kEnable);
  message(1, 0x31, 0x1fee01000);
  mask(1, false);
  msix.trigger(1);
  EXPECT_EQ(sink.delivered[0x31], 1);
  EXPECT_EQ(sink.last_address, 0x1fee01000U);
  EXPECT_EQ(sink.allocated, 1) << "only the vector in use has a route";
}

TEST_F(MsixTest, BindsAnEventfdWhileItsMessageCanBeSent) {
  control(kEnable);
  message(1, 0x31);
  msix.bind(1, 77);
  EXPECT_TRUE(sink.bound.empty()) << "the vector is masked";
  mask(1, false);
  EXPECT_EQ(sink.bound, (std::map<int, uint32_t>{{77, 0x31}}));
  control(kEnable | kMaskAll);
  EXPECT_TRUE(sink.bound.empty());
  control(kEnable);
  EXPECT_EQ(sink.bound.size(), 1U);
  control(0);
  EXPECT_TRUE(sink.bound.empty());
  control(kEnable);
  msix.unbind(1, 77);
  EXPECT_TRUE(sink.bound.empty());
  msix.unbind(1, 77);
  msix.unbind(999, 77);
}

TEST_F(MsixTest, SeveralEventfdsMayBeBoundToOneVector) {
  control(kEnable);
  message(1, 0x31);
  mask(1, false);
  msix.bind(1, 77);
  msix.bind(1, 78);
  msix.bind(kMsixNoVector, 79);
  EXPECT_EQ(sink.bound.size(), 2U);
  msix.unbind(1, 77);
  EXPECT_EQ(sink.bound, (std::map<int, uint32_t>{{78, 0x31}}));
  msix.reset();
  EXPECT_TRUE(sink.bound.empty());
}

TEST_F(MsixTest, AnEventfdThatCannotBeBoundStaysWithItsWatcher) {
  control(kEnable);
  message(1, 0x31);
  mask(1, false);
  sink.refuse_bind = true;
  msix.bind(1, 77);
  EXPECT_TRUE(sink.bound.empty());
  sink.refuse_bind = false;
  mask(1, true);
  mask(1, false);
  EXPECT_EQ(sink.bound.size(), 1U) << "it is tried again";
}

TEST_F(MsixTest, KeepsAMaskedInterruptPendingAndDeliversItOnce) {
  control(kEnable);
  message(2, 0x32);
  msix.trigger(2);
  msix.trigger(2);
  EXPECT_EQ(pending(), 0x4U);
  mask(2, false);
  EXPECT_EQ(sink.delivered[0x32], 1);
  EXPECT_EQ(pending(), 0U);
}

TEST_F(MsixTest, HeedsTheFunctionMask) {
  control(kEnable | kMaskAll);
  message(0, 0x30);
  mask(0, false);
  msix.trigger(0);
  EXPECT_EQ(sink.allocated, 0);
  EXPECT_EQ(pending(), 0x1U);
  control(kEnable);
  EXPECT_EQ(sink.delivered[0x30], 1);
}

TEST_F(MsixTest, RoutesOnlyWhenSomethingChanged) {
  control(kEnable);
  message(0, 0x30);
  mask(0, false);
  EXPECT_EQ(sink.routed, 1);
  for (int i = 0; i < 10; ++i) {
    mask(0, true);
    mask(0, false);
    control(kEnable | kMaskAll);
    control(kEnable);
    msix.trigger(0);
  }
  EXPECT_EQ(sink.routed, 1);
  mask(0, true);
  message(0, 0x40);
  EXPECT_EQ(sink.routed, 1) << "not while masked";
  mask(0, false);
  EXPECT_EQ(sink.routed, 2);
  msix.trigger(0);
  EXPECT_EQ(sink.delivered[0x40], 1);
}

TEST_F(MsixTest, FollowsAMessageChangedWithoutMasking) {
  control(kEnable);
  message(0, 0x30);
  mask(0, false);
  write32(msix, 8, 0x50);
  msix.trigger(0);
  EXPECT_EQ(sink.delivered[0x50], 1);
}

TEST_F(MsixTest, IgnoresVectorsThatDoNotExist) {
  control(kEnable);
  for (const uint32_t vector : {4U, 5U, 2047U, 2048U, 0xfffeU, 0xffffU})
    msix.trigger(static_cast<uint16_t>(vector));
  EXPECT_TRUE(sink.delivered.empty());
  write32(msix, 4 * 16 + 12, 0);
  EXPECT_EQ(read32(msix, 4 * 16 + 12), 0U) << "past the table nothing is stored";
  EXPECT_EQ(sink.allocated, 0);
}

TEST_F(MsixTest, ForgetsPendingInterruptsWhenTurnedOff) {
  control(kEnable);
  msix.trigger(0);
  control(0);
  EXPECT_EQ(pending(), 0U);
  control(kEnable);
  mask(0, false);
  EXPECT_TRUE(sink.delivered.empty());
}

TEST_F(MsixTest, StaysSilentWithoutARouteAndRecovers) {
  sink.refuse = true;
  control(kEnable);
  message(0, 0x30);
  mask(0, false);
  msix.trigger(0);
  EXPECT_TRUE(sink.delivered.empty());
  sink.refuse = false;
  mask(0, true);
  mask(0, false);
  msix.trigger(0);
  EXPECT_EQ(sink.delivered[0x30], 1);
}

TEST_F(MsixTest, TakesQuadwords) {
  std::array<std::byte, 8> data{};
  store_le(data, 0x1fee01003);
  EXPECT_EQ(msix.write(16, data), IoStatus::ok);
  EXPECT_EQ(read32(msix, 16), 0xfee01000U) << "the low two bits are not there";
  EXPECT_EQ(read32(msix, 20), 1U);
  store_le(data, 0x0000000100000077);
  EXPECT_EQ(msix.write(24, data), IoStatus::ok);
  EXPECT_EQ(read32(msix, 24), 0x77U);
  EXPECT_EQ(msix.read(24, data), IoStatus::ok);
  EXPECT_EQ(load_le(data), 0x0000000100000077U);
}

TEST_F(MsixTest, HasABarForAnyNumberOfVectors) {
  EXPECT_EQ(Msix::bar_size(1), 0x1000U);
  EXPECT_EQ(Msix::bar_size(128), 0x1000U);
  EXPECT_EQ(Msix::bar_size(129), 0x2000U);
  EXPECT_EQ(Msix::bar_size(2048), 0x10000U);
  test::SampleFunction big("big", sink, 2048);
  EXPECT_EQ(read32(big.msix, 2047 * 16 + 12), 1U);
  EXPECT_EQ(read32(big.msix, 0x8000 + 252), 0U);
}

TEST_F(MsixTest, SurvivesHostileAccesses) {
  control(kEnable);
  test::poke_everywhere(msix, Msix::bar_size(4));
}

TEST_F(MsixTest, KeepsTableAndPendingBitsOverSaveAndLoad) {
  control(kEnable);
  message(0, 0x30);
  mask(0, false);
  message(3, 0x33);
  msix.trigger(3);
  const auto state = test::saved(function);

  test::FakeMsi other_sink;
  test::SampleFunction copy("sample", other_sink);
  ASSERT_TRUE(test::load(copy, state));
  EXPECT_EQ(test::saved(copy), state);
  EXPECT_EQ(other_sink.routed, 1) << "what was unmasked is routed at once";
  copy.msix.trigger(0);
  EXPECT_EQ(other_sink.delivered[0x30], 1);
  write32(copy.msix, 3 * 16 + 12, 0);
  EXPECT_EQ(other_sink.delivered[0x33], 1);
}

TEST_F(MsixTest, LosesNoInterruptWhileTheGuestMasksAndUnmasks) {
  control(kEnable);
  message(0, 0x30);
  mask(0, false);
  std::atomic<bool> stop{false};
  std::thread guest([&] {
    while (!stop) {
      mask(0, true);
      mask(0, false);
    }
  });
  for (int i = 0; i < 20000; ++i) msix.trigger(0);
  stop = true;
  guest.join();
  mask(0, false);
  EXPECT_EQ(pending(), 0U);
  EXPECT_GE(sink.delivered[0x30], 1);
}

}  // namespace
}  // namespace minivmm
