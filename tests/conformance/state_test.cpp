// Pausing, saving and restoring every device type.
#include "tests/conformance/every_device.h"

namespace minivmm::test {
namespace {

class State : public EveryDevice {
 protected:
  struct Saved {
    std::vector<std::byte> transport;
    std::vector<std::byte> device;
  };
  static std::vector<std::byte> save(const StateUnit& unit) {
    StateWriter writer;
    unit.save(writer);
    return {writer.data().begin(), writer.data().end()};
  }
  static Saved save(FakeGuest& guest) {
    guest.transport->transport().pause();
    return {save(guest.transport->state()), save(guest.transport->transport().device())};
  }
  static bool load(StateUnit& unit, std::span<const std::byte> data) {
    auto reader = StateReader::parse(data);
    return reader && unit.load(*reader);
  }
  static void copy_memory(const FakeGuest& from, FakeGuest& to) {
    std::vector<std::byte> bytes(kLowSize);
    ASSERT_TRUE(from.memory.read(Gpa{0}, bytes));
    ASSERT_TRUE(to.memory.write(Gpa{0}, bytes));
    for (const FakeRing& ring : from.rings) {
      to.rings.emplace_back(to.memory, ring.size(), ring.layout().descriptors);
      to.rings.back().set_avail_index(ring.avail_index());
    }
  }
};

TEST_P(State, APausedDeviceTouchesNothingAndServesItsQueueWhenResumed) {
  auto guest = running_guest();
  ASSERT_TRUE(guest->alive());
  guest->transport->transport().pause();
  guest->transport->transport().pause();
  const auto used = guest->ring().used_index();
  guest->ring().offer(4);
  guest->transport->kick(guest->main);
  EXPECT_EQ(guest->ring().used_index(), used);
  guest->transport->transport().resume();
  EXPECT_TRUE(guest->wait_used(guest->main, static_cast<uint16_t>(used + 1)));
  EXPECT_TRUE(guest->alive());
}

TEST_P(State, ARestoredDeviceGoesOnWhereTheSavedOneStopped) {
  auto source = running_guest();
  for (int i = 0; i < 70; ++i) ASSERT_TRUE(source->alive());
  const Saved saved = save(*source);
  source->ring().offer(4);  // kicked while nobody listened

  auto target = make_guest();
  copy_memory(*source, *target);
  source.reset();
  ASSERT_TRUE(load(target->transport->state(), saved.transport));
  ASSERT_TRUE(load(target->transport->transport().device(), saved.device));
  EXPECT_EQ(target->transport->status(), FakeGuest::kRunning);
  target->transport->transport().resume();
  EXPECT_TRUE(target->wait_used(target->main, 71));
  EXPECT_TRUE(target->alive());
}

TEST_P(State, WhatIsSavedTwiceIsTheSame) {
  auto guest = running_guest();
  ASSERT_TRUE(guest->alive());
  const Saved first = save(*guest);
  guest->transport->transport().resume();
  const Saved second = save(*guest);
  EXPECT_EQ(first.transport, second.transport);
  EXPECT_EQ(first.device, second.device);
}

TEST_P(State, ADeviceThatNeverRanCanBeSavedAndRestored) {
  auto source = make_guest();
  const Saved saved = save(*source);
  source.reset();
  auto target = make_guest();
  EXPECT_TRUE(load(target->transport->state(), saved.transport));
  EXPECT_TRUE(load(target->transport->transport().device(), saved.device));
  target->transport->transport().resume();
  expect_recovers(*target);
}

TEST_P(State, DamagedStateIsRefusedOrHarmless) {
  auto source = running_guest();
  ASSERT_TRUE(source->alive());
  const Saved saved = save(*source);
  source.reset();
  auto target = make_guest();
  const auto attempt = [&](std::span<const std::byte> bytes) {
    load(target->transport->state(), bytes);
    load(target->transport->transport().device(), bytes);
  };
  for (size_t len = 0; len < saved.transport.size(); ++len) attempt(std::span(saved.transport).first(len));
  for (size_t at = 0; at < saved.transport.size(); ++at) {
    std::vector<std::byte> damaged = saved.transport;
    for (const auto flip : {std::byte{1}, std::byte{0x80}, std::byte{0xff}}) {
      damaged[at] = saved.transport[at] ^ flip;
      attempt(damaged);
    }
  }
  target->transport->transport().resume();
  expect_recovers(*target);
}

TEST_P(State, ARefusedStateChangesNothing) {
  auto source = running_guest();
  const Saved saved = save(*source);
  source.reset();
  auto target = running_guest();
  ASSERT_TRUE(target->alive());
  EXPECT_FALSE(
      load(target->transport->state(), std::span(saved.transport).first(saved.transport.size() / 2)));
  EXPECT_TRUE(target->alive());
}

MV_FOR_EVERY_DEVICE(State);

}  // namespace
}  // namespace minivmm::test
