// Hostile rings and notifications against every device type: facts 5, 7 and 9.
#include "tests/conformance/every_device.h"

namespace minivmm::test {
namespace {

class HostileRing : public EveryDevice {};

TEST_P(HostileRing, AnAvailableIndexThatJumpsNeedsAReset) {
  on_each_queue([&](FakeGuest* guest) {
    guest->ring().set_avail_index(static_cast<uint16_t>(guest->ring().size() + 1));
    guest->transport->kick(guest->main);
    EXPECT_TRUE(guest->wait_needs_reset());
    EXPECT_EQ(guest->ring().used_index(), 0);
    expect_recovers(*guest);
  });
}

TEST_P(HostileRing, AnAvailableIndexThatGoesBackNeedsAReset) {
  on_each_queue([&](FakeGuest* guest) {
    ASSERT_TRUE(guest->alive());
    guest->ring().set_avail_index(0xfff0);
    guest->transport->kick(guest->main);
    EXPECT_TRUE(guest->wait_needs_reset());
    expect_recovers(*guest);
  });
}

TEST_P(HostileRing, AnEntryPastTheTableNeedsAReset) {
  on_each_queue([&](FakeGuest* guest) {
    guest->ring().offer(guest->ring().size());
    guest->transport->kick(guest->main);
    EXPECT_TRUE(guest->wait_needs_reset());
    expect_recovers(*guest);
  });
}

TEST_P(HostileRing, TheSameHeadTwiceComesBackTwice) {
  on_each_queue([&](FakeGuest* guest) {
    guest->probe_chain(2);
    guest->ring().offer(2);
    guest->ring().offer(2);
    guest->transport->kick(guest->main);
    ASSERT_TRUE(guest->wait_used(guest->main, 2));
    EXPECT_EQ(guest->ring().used(0).id, 2U);
    EXPECT_EQ(guest->ring().used(1).id, 2U);
    EXPECT_TRUE(guest->alive());
  });
}

TEST_P(HostileRing, ABrokenQueueIgnoresFurtherKicks) {
  auto guest = running_guest();
  guest->ring().set_avail_index(1000);
  guest->transport->kick(guest->main);
  ASSERT_TRUE(guest->wait_needs_reset());
  guest->probe_chain(0);
  guest->ring().set_avail_index(0);
  guest->ring().offer(0);
  guest->transport->kick(guest->main);
  guest->transport->notify(guest->main);
  guest->transport->transport().pause();  // joins the worker: it has seen the kicks, or never will
  guest->transport->transport().resume();
  guest->transport->set_status(0);
  expect_recovers(*guest);
}

TEST_P(HostileRing, TheIndicesWrapAround) {
  auto guest = running_guest();
  guest->probe_chain(4);
  for (unsigned i = 0; i < 66000; ++i) {
    FakeRing& ring = guest->ring();
    ring.offer(4);
    if (ring.avail_index() % 64 != 0) continue;
    guest->transport->kick(guest->main);
    ASSERT_TRUE(guest->wait_used(guest->main, ring.avail_index()));
  }
  guest->transport->kick(guest->main);
  EXPECT_TRUE(guest->wait_used(guest->main, guest->ring().avail_index()));
}

TEST_P(HostileRing, KicksBeforeDriverOkAreServedOnlyAfterIt) {
  auto guest = make_guest();
  guest->negotiate();
  guest->transport->notify(guest->main);
  guest->set_up_queues();
  guest->probe_chain(0);
  guest->ring().offer(0);
  guest->transport->kick(guest->main);
  guest->transport->notify(guest->main);
  EXPECT_EQ(guest->ring().used_index(), 0);
  EXPECT_EQ(guest->transport->queue_interrupts(guest->main).count(), 0U);
  guest->drive();
  EXPECT_TRUE(guest->wait_used(guest->main, 1));
}

TEST_P(HostileRing, KicksAfterAResetTouchNothing) {
  on_each_queue([&](FakeGuest* guest) {
    ASSERT_TRUE(guest->alive());
    guest->transport->set_status(0);
    EXPECT_EQ(guest->transport->status(), 0);
    const auto interrupts = guest->transport->queue_interrupts(guest->main).count();
    const auto used = guest->ring().used_index();
    guest->ring().offer(4);
    guest->transport->kick(guest->main);
    guest->transport->notify(guest->main);
    guest->transport->transport().reset();
    EXPECT_EQ(guest->ring().used_index(), used);
    EXPECT_EQ(guest->transport->queue_interrupts(guest->main).count(), interrupts);
    expect_recovers(*guest);
  });
}

TEST_P(HostileRing, AResetWithRequestsQueuedStopsThemAll) {
  auto guest = running_guest();
  FakeRing& ring = guest->ring();
  for (int round = 0; round < 20; ++round) {
    guest->probe_chain(4);
    for (int i = 0; i < ring.size(); ++i) ring.offer(4);
    guest->transport->kick(guest->main);
    guest->transport->set_status(0);
    const uint16_t used = ring.used_index();
    const auto interrupts = guest->transport->queue_interrupts(guest->main).count();
    ASSERT_TRUE(guest->memory.fill(kBuffers + 0x1000, 513, std::byte{0xee}));
    guest->transport->kick(guest->main);
    EXPECT_EQ(ring.used_index(), used);
    EXPECT_EQ(guest->transport->queue_interrupts(guest->main).count(), interrupts);
    EXPECT_EQ(*guest->memory.load<uint8_t>(kBuffers + 0x1000), 0xee);
    guest->bring_up();
  }
  EXPECT_TRUE(guest->alive());
}

TEST_P(HostileRing, ANotificationOfAQueueThatDoesNotExistIsIgnored) {
  auto guest = running_guest();
  const auto queues = static_cast<uint32_t>(guest->sizes.size());
  const unsigned before = faults();
  for (const uint32_t queue : {queues, queues + 1, 255U, 1000U}) guest->transport->notify(queue);
  EXPECT_GT(faults(), before);
  EXPECT_EQ(guest->transport->status(), FakeGuest::kRunning);
  EXPECT_TRUE(guest->alive());
}

TEST_P(HostileRing, AQueueThatIsResetAloneTouchesNothingAndWorksAgain) {
  on_each_queue([&](FakeGuest* guest) {
    for (int round = 0; round < 3; ++round) {
      ASSERT_TRUE(guest->alive());
      guest->transport->select_queue(guest->main);
      guest->transport->reset_queue();
      EXPECT_FALSE(guest->transport->queue_enabled());
      const uint16_t used = guest->ring().used_index();
      guest->ring().offer(4);
      guest->transport->kick(guest->main);
      guest->transport->notify(guest->main);
      EXPECT_EQ(guest->ring().used_index(), used);
      EXPECT_EQ(guest->transport->status(), FakeGuest::kRunning);
      guest->set_up_queue_again(guest->main);
      EXPECT_TRUE(guest->transport->queue_enabled());
    }
    EXPECT_TRUE(guest->alive());
  });
}

TEST_P(HostileRing, AQueueThatDoesNotExistIsNotReset) {
  auto guest = running_guest();
  for (const uint16_t queue : {static_cast<uint16_t>(guest->sizes.size()), uint16_t{0xffff}}) {
    guest->transport->select_queue(queue);
    guest->transport->reset_queue();
  }
  EXPECT_TRUE(guest->alive());
}

TEST_P(HostileRing, ANotificationByTheSlowPathWorks) {
  auto guest = running_guest();
  guest->probe_chain(4);
  guest->ring().offer(4);
  guest->transport->notify(guest->main);
  EXPECT_TRUE(guest->wait_used(guest->main, 1));
}

TEST_P(HostileRing, EveryQueueWorks) {
  auto guest = running_guest();
  const auto queues = static_cast<uint16_t>(guest->sizes.size());
  for (uint16_t queue = 0; queue < queues; ++queue) {
    if (guest->receives(queue)) continue;
    EXPECT_TRUE(guest->alive(queue));
  }
}

TEST_P(HostileRing, BuffersThatWaitForTheHostOutliveAPauseAndEndWithAReset) {
  auto guest = running_guest();
  for (int round = 0; round < 3; ++round) {
    for (uint16_t queue = 0; queue < guest->sizes.size(); ++queue) {
      if (!guest->receives(queue)) continue;
      guest->probe_chain(2, queue);
      guest->rings[queue].descriptor(6, kBuffers, 16, virtio::kDescNext, 6);
      for (const uint16_t head : {uint16_t{2}, uint16_t{2}, uint16_t{6}}) guest->rings[queue].offer(head);
      guest->transport->kick(queue);
    }
    guest->transport->transport().pause();
    guest->transport->transport().resume();
    EXPECT_EQ(guest->transport->status(), FakeGuest::kRunning);
    EXPECT_TRUE(guest->alive());
    guest->bring_up();
  }
  EXPECT_TRUE(guest->alive());
}

TEST_P(HostileRing, WorksWithoutEventIndexAndHonoursNoInterrupt) {
  auto guest = make_guest();
  guest->bring_up(virtio::kFeatureEventIdx);
  ASSERT_TRUE(guest->alive());  // the first publication interrupts whatever the flags say
  guest->ring().set_avail_flags(virtio::kAvailNoInterrupt);
  const auto interrupts = guest->transport->queue_interrupts(guest->main).count();
  guest->probe_chain(4);
  guest->ring().offer(4);
  guest->transport->kick(guest->main);
  while (guest->ring().used_index() != 2) std::this_thread::yield();  // ends by the test's time limit
  guest->transport->transport().pause();
  EXPECT_EQ(guest->transport->queue_interrupts(guest->main).count(), interrupts);
  guest->transport->transport().resume();
  guest->ring().set_avail_flags(0);
  EXPECT_TRUE(guest->alive());
}

MV_FOR_EVERY_DEVICE(HostileRing);

}  // namespace
}  // namespace minivmm::test
