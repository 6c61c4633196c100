// What a hostile guest does with a queue that others work on, over a real transport: facts 5 to 7 and 9, as
// far as they are ours. What is in the ring is for whoever works on it.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "tests/conformance/fake_guest.h"
#include "vmm/core/state.h"

namespace minivmm::test {

struct BadLayout {
  std::string what;
  VirtqueueLayout layout;
};

// `most`: descriptors that the device offers.
inline std::vector<BadLayout> bad_layouts(uint16_t most) {
  const VirtqueueLayout good{64, kRingArea, kRingArea + 0x4000, kRingArea + 0x5000};
  std::vector<BadLayout> out;
  for (const unsigned size : {0U, 3U, 63U, 2U * most, 0x8000U, 0xffffU}) {
    out.push_back({"size " + std::to_string(size), good});
    out.back().layout.size = static_cast<uint16_t>(size);
  }
  constexpr std::array kParts{&VirtqueueLayout::descriptors, &VirtqueueLayout::driver,
                              &VirtqueueLayout::device};
  const std::array<uint64_t, 3> off{8, 1, 2};  // 2.7: aligned to 16, 2 and 4
  for (size_t part = 0; part < kParts.size(); ++part) {
    out.push_back({"unaligned part " + std::to_string(part), good});
    out.back().layout.*kParts.at(part) = good.*kParts.at(part) + off.at(part);
    for (const Gpa where :
         {Gpa{kLowSize - 16}, Gpa{kLowSize}, kHighBase + kHighSize, Gpa{~uint64_t{15}}, Gpa{0xd0000000}}) {
      out.push_back({"part " + std::to_string(part) + " at " + std::to_string(value(where)), good});
      out.back().layout.*kParts.at(part) = where;
    }
  }
  out.push_back({"available ring in the descriptors", good});
  out.back().layout.driver = good.descriptors + 16;
  out.push_back({"used ring in the available ring", good});
  out.back().layout.device = good.driver + 128;
  out.push_back({"used ring on the descriptors", good});
  out.back().layout.device = good.descriptors;
  return out;
}

// None of them becomes a queue, whatever the guest does then. It is left as it has become of the last.
inline void expect_layouts_refused(FakeGuest& guest, uint16_t queue) {
  for (const BadLayout& bad : bad_layouts(guest.sizes[queue])) {
    SCOPED_TRACE(bad.what);
    guest.negotiate();
    guest.set_up_queue(queue, bad.layout);
    EXPECT_FALSE(guest.transport->queue_enabled());
    EXPECT_NE(guest.transport->status() & virtio::status::kNeedsReset, 0);
    guest.drive();
    guest.transport->kick(queue);
    guest.transport->notify(queue);
  }
}

// A reset with requests queued: when it has happened, nobody touches the ring or the buffers. `head` is a
// request that is ready, with its writable part, if any, at kBuffers + 0x1000.
inline void expect_reset_ends(FakeGuest& guest, uint16_t queue, uint16_t head) {
  FakeRing& ring = guest.rings[queue];
  for (int i = 0; i < 8; ++i) ring.offer(head);
  guest.transport->kick(queue);
  guest.transport->set_status(0);
  EXPECT_EQ(guest.transport->status(), 0);
  const uint16_t used = ring.used_index();
  const uint64_t interrupts = guest.transport->queue_interrupts(queue).count();
  ASSERT_TRUE(guest.memory.fill(kBuffers + 0x1000, 513, std::byte{0xee}));
  ring.offer(head);
  guest.transport->kick(queue);
  guest.transport->notify(queue);
  guest.transport->transport().reset();
  EXPECT_EQ(ring.used_index(), used);
  EXPECT_EQ(guest.transport->queue_interrupts(queue).count(), interrupts);
  EXPECT_EQ(*guest.memory.load<uint8_t>(kBuffers + 0x1000), 0xee);
}

// The used ring's index is the other's word for how far it has come, and the guest can write it.
inline void expect_overwritten_index_is_harmless(FakeGuest& guest, uint16_t queue) {
  for (const uint16_t index : {uint16_t{1}, uint16_t{0x7fff}, uint16_t{0xffff}}) {
    SCOPED_TRACE(index);
    guest.bring_up();
    ASSERT_TRUE(guest.memory.store(guest.rings[queue].layout().device + virtio::kUsedIdx, index));
    guest.transport->transport().pause();
    StateWriter saved;
    guest.transport->state().save(saved);
    guest.transport->transport().resume();
    EXPECT_EQ(guest.transport->status(), FakeGuest::kRunning);
    guest.transport->select_queue(queue);
    guest.transport->reset_queue();
    guest.set_up_queue_again(queue);
    EXPECT_TRUE(guest.alive(queue));
  }
}

inline void expect_notifications_of_no_queue_ignored(FakeGuest& guest) {
  const auto queues = static_cast<uint32_t>(guest.sizes.size());
  for (const uint32_t queue : {queues, queues + 1, 255U, 1000U}) guest.transport->notify(queue);
  EXPECT_EQ(guest.transport->status(), FakeGuest::kRunning);
}

}  // namespace minivmm::test
