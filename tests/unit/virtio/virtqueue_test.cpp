#include "virtio/virtqueue.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/conformance/fake_guest.h"
#include "vmm/core/state.h"

namespace minivmm::test {
namespace {

using virtio::kDescNext;
using virtio::kDescWrite;

class VirtqueueTest : public testing::Test {
 protected:
  Virtqueue make(bool event_idx = false, VirtqueuePosition position = {}) {
    auto queue =
        Virtqueue::create(memory_, ring_.layout(), std::move(position),
                          {.max_size = 16, .event_idx = event_idx, .indirect = true, .name = "q"}, log_);
    EXPECT_TRUE(queue);
    return std::move(*queue);
  }
  // One buffer of each kind under `head` and `head` + 1.
  void chain(uint16_t head) {
    ring_.descriptor(head, kBuffers, 16, kDescNext, static_cast<uint16_t>(head + 1));
    ring_.descriptor(static_cast<uint16_t>(head + 1), kBuffers + 0x1000, 100, kDescWrite);
  }
  static Chain pop(Virtqueue& queue) {
    auto popped = queue.pop();
    MV_CHECK(popped && *popped);
    return std::move(**popped);
  }
  static bool empty(Virtqueue& queue) {
    auto popped = queue.pop();
    return popped && !*popped;
  }

  GuestMemory memory_ = holed_memory();
  Log log_;
  FakeRing ring_{memory_, 16, kRingArea};
};

TEST_F(VirtqueueTest, IsHandedOverFromTheFirstRequestThatWasNotExecuted) {
  Virtqueue queue = make();
  for (const uint16_t head : std::to_array<uint16_t>({0, 4, 8})) {
    chain(head);
    ring_.offer(head);
  }
  EXPECT_EQ(queue.hand_over_index().value(), 0);
  queue.complete(pop(queue), 0);
  EXPECT_TRUE(queue.publish());
  Chain second = pop(queue);
  Chain third = pop(queue);
  queue.give_back(std::move(second));
  queue.give_back(std::move(third));
  EXPECT_EQ(queue.hand_over_index().value(), 1);
}

TEST_F(VirtqueueTest, IsNotHandedOverWithRequestsTakenOutOfOrder) {
  Virtqueue queue = make();
  for (const uint16_t head : std::to_array<uint16_t>({0, 4})) {
    chain(head);
    ring_.offer(head);
  }
  Chain first = pop(queue);
  queue.complete(pop(queue), 0);
  EXPECT_TRUE(queue.publish());
  queue.give_back(std::move(first));
  EXPECT_EQ(queue.hand_over_index().error().code, Errc::unsupported);
}

TEST_F(VirtqueueTest, GoesOnWhereTheOneItIsTakenBackFromHasCome) {
  Virtqueue queue = make();
  for (const uint16_t head : std::to_array<uint16_t>({0, 4, 8})) {
    chain(head);
    ring_.offer(head);
  }
  // Somebody else has done the first two.
  ASSERT_TRUE(memory_.store<uint16_t>(ring_.layout().device + virtio::kUsedIdx, 2));
  queue.taken_back(2);
  EXPECT_EQ(queue.position().next_avail, 2);
  EXPECT_EQ(queue.position().next_used, 2);
  Chain third = pop(queue);
  EXPECT_EQ(third.head(), 8);
  queue.complete(std::move(third), 5);
  EXPECT_TRUE(queue.publish()) << "what was signalled before is not known";
  EXPECT_EQ(ring_.used_index(), 3);
  EXPECT_EQ(ring_.used(2).id, 8U);
}

TEST_F(VirtqueueTest, DoesAgainWhatOneThatVanishedHadNotUsed) {
  Virtqueue queue = make();
  for (const uint16_t head : std::to_array<uint16_t>({0, 4, 8})) {
    chain(head);
    ring_.offer(head);
  }
  ASSERT_TRUE(memory_.store<uint16_t>(ring_.layout().device + virtio::kUsedIdx, 1));
  queue.taken_back_in_order();
  Chain second = pop(queue);
  EXPECT_EQ(second.head(), 4);
  queue.give_back(std::move(second));
}

TEST_F(VirtqueueTest, GivesChainsInOrderAndReturnsThemInTheOrderOfCompletion) {
  Virtqueue queue = make();
  EXPECT_TRUE(empty(queue));
  chain(0);
  chain(4);
  ring_.offer(4);
  ring_.offer(0);
  Chain first = pop(queue);
  Chain second = pop(queue);
  EXPECT_TRUE(empty(queue));
  EXPECT_EQ(first.head(), 4);
  EXPECT_EQ(first.readable_bytes(), 16U);
  EXPECT_EQ(first.writable_bytes(), 100U);
  queue.complete(std::move(second), 7);
  EXPECT_EQ(ring_.used_index(), 0);  // not before publish()
  queue.complete(std::move(first), 100);
  EXPECT_TRUE(queue.publish());
  EXPECT_FALSE(queue.publish());
  EXPECT_EQ(ring_.used_index(), 2);
  EXPECT_EQ(ring_.used(0).id, 0U);
  EXPECT_EQ(ring_.used(0).len, 7U);
  EXPECT_EQ(ring_.used(1).id, 4U);
}

TEST_F(VirtqueueTest, AChainDoesNotChangeAfterItWasPopped) {
  Virtqueue queue = make();
  chain(0);
  ring_.offer(0);
  Chain popped = pop(queue);
  ring_.descriptor(0, Gpa{kLowSize}, 0xffff'ffff);
  ring_.descriptor(1, Gpa{kLowSize}, 0xffff'ffff, kDescWrite);
  EXPECT_EQ(popped.readable_bytes(), 16U);
  IoVec pieces;
  ASSERT_TRUE(popped.writable_slices(0, 100, pieces));
  ASSERT_EQ(pieces.size(), 1U);
  EXPECT_EQ(pieces[0].iov_base, *memory_.contiguous(kBuffers + 0x1000, 100));
  queue.complete(std::move(popped), 0);
}

TEST_F(VirtqueueTest, CopiesAcrossBuffersAndNotPastThem) {
  Virtqueue queue = make();
  ASSERT_TRUE(memory_.store(kBuffers, uint32_t{0x04030201}));
  ring_.descriptor(0, kBuffers, 1, kDescNext, 1);
  ring_.descriptor(1, kBuffers + 1, 3, kDescNext, 2);
  ring_.descriptor(2, kBuffers + 0x100, 3, kDescNext | kDescWrite, 3);
  ring_.descriptor(3, kBuffers + 0x200, 3, kDescWrite);
  ring_.offer(0);
  Chain popped = pop(queue);
  uint32_t in = 0;
  EXPECT_TRUE(popped.read(0, std::as_writable_bytes(std::span(&in, 1))));
  EXPECT_EQ(in, 0x04030201U);
  EXPECT_FALSE(popped.read(1, std::as_writable_bytes(std::span(&in, 1))));
  EXPECT_FALSE(popped.read(~uint64_t{0}, std::as_writable_bytes(std::span(&in, 1))));
  EXPECT_TRUE(popped.write(1, std::as_bytes(std::span(&in, 1))));
  EXPECT_FALSE(popped.write(3, std::as_bytes(std::span(&in, 1))));
  EXPECT_EQ(*memory_.load<uint16_t>(kBuffers + 0x101), 0x0201);
  EXPECT_EQ(*memory_.load<uint16_t>(kBuffers + 0x200), 0x0403);
  queue.complete(std::move(popped), 6);
}

TEST_F(VirtqueueTest, InterruptsOnlyPastTheUsedEvent) {
  Virtqueue queue = make(true);
  chain(0);
  const auto one = [&] {
    ring_.offer(0);
    queue.complete(pop(queue), 0);
    return queue.publish();
  };
  EXPECT_TRUE(one());  // what was signalled before we came is not known
  ring_.set_used_event(3);
  EXPECT_FALSE(one());  // used 2
  EXPECT_FALSE(one());  // used 3
  EXPECT_TRUE(one());   // used 4: passed entry 3
  EXPECT_FALSE(one());
}

TEST_F(VirtqueueTest, ABatchThatPassesTheUsedEventInterruptsOnce) {
  Virtqueue queue = make(true);
  chain(0);
  ring_.offer(0);
  queue.complete(pop(queue), 0);
  EXPECT_TRUE(queue.publish());
  ring_.set_used_event(2);
  for (int i = 0; i < 5; ++i) {
    ring_.offer(0);
    queue.complete(pop(queue), 0);
  }
  EXPECT_TRUE(queue.publish());
  EXPECT_FALSE(queue.publish());
}

TEST_F(VirtqueueTest, WhatTheDriverHasFoundByItselfWantsNoInterrupt) {
  Virtqueue queue = make(true);
  chain(0);
  const auto show = [&] {
    ring_.offer(0);
    queue.complete(pop(queue), 0);
    queue.show();
  };
  show();
  EXPECT_TRUE(queue.wants_interrupt());  // what was signalled before we came is not known
  ring_.set_used_event(1);
  show();
  EXPECT_EQ(ring_.used_index(), 2);
  EXPECT_EQ(queue.untold(), 1U);
  ring_.set_used_event(2);  // it has seen that one, and waits for the next
  EXPECT_FALSE(queue.wants_interrupt());
  EXPECT_EQ(queue.untold(), 0U);
  show();
  show();
  EXPECT_TRUE(queue.wants_interrupt());
  EXPECT_FALSE(queue.wants_interrupt());
}

TEST_F(VirtqueueTest, KicksAreSwitchedOffAndOnByFlag) {
  Virtqueue queue = make();
  queue.disable_kicks();
  EXPECT_EQ(ring_.used_flags(), virtio::kUsedNoNotify);
  EXPECT_FALSE(queue.enable_kicks());
  EXPECT_EQ(ring_.used_flags(), 0);
}

TEST_F(VirtqueueTest, EnablingKicksSeesWhatCameInBetween) {
  for (const bool event_idx : {false, true}) {
    Virtqueue queue = make(event_idx, {ring_.avail_index(), ring_.used_index(), {}});
    chain(0);
    queue.disable_kicks();
    EXPECT_TRUE(empty(queue));
    ring_.offer(0);
    EXPECT_TRUE(queue.enable_kicks());
    if (event_idx) {
      EXPECT_EQ(ring_.avail_event(), static_cast<uint16_t>(ring_.avail_index() - 1));
    }
    queue.complete(pop(queue), 0);
    EXPECT_FALSE(queue.enable_kicks());
    EXPECT_TRUE(queue.publish());
  }
}

TEST_F(VirtqueueTest, WhatWasGivenBackComesFirstAndInOrder) {
  Virtqueue queue = make();
  for (const uint16_t head : {uint16_t{0}, uint16_t{2}, uint16_t{4}, uint16_t{6}}) {
    chain(head);
    ring_.offer(head);
  }
  Chain a = pop(queue);
  Chain b = pop(queue);
  Chain c = pop(queue);
  queue.complete(std::move(b), 0);
  queue.give_back(std::move(a));
  queue.give_back(std::move(c));
  EXPECT_TRUE(queue.publish());

  StateWriter writer;
  queue.position().save(writer);
  auto reader = StateReader::parse(writer.data());
  ASSERT_TRUE(reader);
  auto position = VirtqueuePosition::parse(*reader, 16);
  ASSERT_TRUE(position);
  EXPECT_EQ(position->given_back, (std::vector<uint16_t>{0, 4}));
  Virtqueue restored = make(false, *position);
  EXPECT_TRUE(restored.enable_kicks());
  for (const uint16_t head : {uint16_t{0}, uint16_t{4}, uint16_t{6}}) {
    Chain again = pop(restored);
    EXPECT_EQ(again.head(), head);
    restored.complete(std::move(again), 0);
  }
  EXPECT_TRUE(empty(restored));
  EXPECT_TRUE(restored.publish());
  EXPECT_EQ(ring_.used_index(), 4);
}

TEST_F(VirtqueueTest, SavedPositionsPastTheTableAreRefused) {
  StateWriter writer;
  VirtqueuePosition{1, 1, {3, 16}}.save(writer);
  auto reader = StateReader::parse(writer.data());
  ASSERT_TRUE(reader);
  EXPECT_TRUE(VirtqueuePosition::parse(*reader, 32));
  EXPECT_FALSE(VirtqueuePosition::parse(*reader, 16));
  EXPECT_FALSE(VirtqueuePosition::parse(*reader, 1));
}

TEST_F(VirtqueueTest, NoMoreRequestsAreInFlightThanTheQueueHolds) {
  Virtqueue queue = make();
  chain(0);
  std::vector<Chain> held;
  for (int i = 0; i < 16; ++i) {
    ring_.offer(0);
    held.push_back(pop(queue));
  }
  ring_.offer(0);
  EXPECT_FALSE(queue.pop());
  EXPECT_FALSE(queue.pop());
  for (Chain& popped : held) queue.complete(std::move(popped), 0);
}

TEST_F(VirtqueueTest, ChainsOfMoreThanFourGibibytesComeBackEmpty) {
  GuestMemory large = GuestMemory::anonymous({{Gpa{0}, uint64_t{6} << 30}});
  FakeRing ring(large, 16, kRingArea);
  auto queue =
      Virtqueue::create(large, ring.layout(), {}, {.max_size = 16, .indirect = true, .name = "q"}, log_);
  ASSERT_TRUE(queue);
  ring.descriptor(0, Gpa{0}, 0x8000'0000, kDescWrite | kDescNext, 1);
  ring.descriptor(1, Gpa{0}, 0x8000'0000, kDescWrite | kDescNext, 2);
  ring.descriptor(2, Gpa{0}, 1, kDescWrite);
  ring.offer(0);
  EXPECT_TRUE(empty(*queue));
  EXPECT_TRUE(queue->publish());
  EXPECT_EQ(ring.used(0).len, 0U);
  ring.descriptor(1, Gpa{0}, 0x8000'0000, kDescWrite);
  ring.offer(0);
  Chain whole = pop(*queue);
  EXPECT_EQ(whole.writable_bytes(), uint64_t{1} << 32);
  queue->complete(std::move(whole), 0);
}

TEST_F(VirtqueueTest, AnIndirectChainMayBeAsLongAsTheOfferedSizeThoughTheRingIsSmaller) {
  FakeRing ring(memory_, 2, kRingArea);
  auto queue =
      Virtqueue::create(memory_, ring.layout(), {}, {.max_size = 16, .indirect = true, .name = "q"}, log_);
  ASSERT_TRUE(queue);
  for (uint16_t i = 0; i < 17; ++i) {
    ring.descriptor_at(kBuffers + 16U * i, kBuffers, 1, i < 15 ? kDescNext : uint16_t{0},
                       static_cast<uint16_t>(i + 1));
  }
  ring.descriptor(0, kBuffers, 16 * 16, virtio::kDescIndirect);
  ring.offer(0);
  Chain whole = pop(*queue);
  EXPECT_EQ(whole.readable_bytes(), 16U);
  queue->complete(std::move(whole), 0);
  ring.descriptor(0, kBuffers, 16 * 17, virtio::kDescIndirect);
  ring.offer(0);
  EXPECT_TRUE(empty(*queue));
}

using VirtqueueDeathTest = VirtqueueTest;

TEST_F(VirtqueueDeathTest, ALostChainIsNoticed) {
#ifndef NDEBUG
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        Virtqueue queue = make();
        chain(0);
        ring_.offer(0);
        const Chain lost = pop(queue);
      },
      "broken invariant");
#endif
}

}  // namespace
}  // namespace minivmm::test
