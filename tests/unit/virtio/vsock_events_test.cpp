// The event queue of vhost-vsock, which needs no vhost.
#include "virtio/device/vsock_events.h"

#include <gtest/gtest.h>

#include "tests/unit/virtio/vhost_guest.h"
#include "virtio/device/vsock_packet.h"
#include "virtio/queue_runner.h"

namespace minivmm::test {
namespace {

class VsockEventsTest : public PlaneGuest {
 protected:
  std::unique_ptr<QueueRunner> run(VirtqueuePosition position = {}) {
    auto runner =
        QueueRunner::start("events", make_queue(0, std::move(position)), context(0), {},
                           {.drain =
                                [this](Virtqueue& q, unsigned, const StopFlag&) {
                                  drains_.add();
                                  return events_.drain(q, "vsock", log_);
                                },
                            .settle = [this](Virtqueue& q, const StopFlag&) { events_.settle(q); }});
    EXPECT_TRUE(runner);
    return std::move(*runner);
  }

  VsockEvents events_;
  Counter drains_;
};

TEST_F(VsockEventsTest, BuffersThatWaitAreNotLookedAtAgain) {
  Virtqueue queue = make_queue(0);
  for (uint16_t head = 0; head < 8; ++head) offer_buffer(0, head, true);
  ASSERT_TRUE(events_.drain(queue, "vsock", log_));
  EXPECT_FALSE(queue.available());
  EXPECT_FALSE(queue.enable_kicks());
  EXPECT_EQ(queue.in_flight(), 8U);
  events_.settle(queue);
  EXPECT_EQ(queue.position().given_back.size(), 8U);
}

TEST_F(VsockEventsTest, AnIdleQueueIsDrainedAsOftenAsItIsKicked) {
  const auto runner = run();
  constexpr uint16_t kKicks = 8;
  for (uint16_t head = 0; head < kKicks; ++head) {
    const uint64_t seen = drains_.count();
    offer_buffer(0, head, true);
    ASSERT_TRUE(drains_.wait_past(seen));
  }
  runner->stop();
  // At its start, and for each kick once for the ring and once for the doorbell.
  EXPECT_LE(drains_.count(), 2U * kKicks + 1);
  EXPECT_EQ(ring(0).used_index(), 0);
}

TEST_F(VsockEventsTest, AGuestThatWasMovedIsToldOnce) {
  events_.set_moved(true);
  auto runner = run();
  for (uint16_t head = 0; head < 4; ++head) offer_buffer(0, head, true);
  ASSERT_TRUE(wait_used(0, 1));
  EXPECT_EQ(ring(0).used(0).id, 0U);
  EXPECT_EQ(ring(0).used(0).len, sizeof vsock::kEventTransportReset);
  EXPECT_EQ(*memory_.load<uint32_t>(kHighBase), vsock::kEventTransportReset);
  const VirtqueuePosition stopped = runner->stop().position();
  EXPECT_EQ(ring(0).used_index(), 1);
  events_.set_moved(true);  // and again, with the buffers that were left
  runner = run(stopped);
  ASSERT_TRUE(wait_used(0, 2));
  EXPECT_EQ(ring(0).used(1).id, 1U);
  runner->stop();
}

TEST_F(VsockEventsTest, ABufferTooSmallComesBackEmpty) {
  events_.set_moved(true);
  ring(0).descriptor(0, kHighBase, 2, virtio::kDescWrite);
  ring(0).offer(0);
  offer_buffer(0, 1, true);
  const auto runner = run();
  ASSERT_TRUE(wait_used(0, 2));
  EXPECT_EQ(ring(0).used(0).len, 0U);
  EXPECT_EQ(ring(0).used(1).len, sizeof vsock::kEventTransportReset);
  runner->stop();
}

}  // namespace
}  // namespace minivmm::test
