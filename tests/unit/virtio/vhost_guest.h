// The rings of a guest and the wires of a transport, for data planes outside this process.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>

#include "tests/conformance/fake_guest.h"
#include "virtio/call_relay.h"
#include "virtio/vhost/data_plane.h"

namespace minivmm::test {

class FakeSignals final : public VirtioSignals {
 public:
  void used(uint16_t queue) override { interrupts.at(queue).add(); }
  void config_changed() override {}
  void needs_reset() override { resets.add(); }
  Result<void> set_calls(uint16_t queue, const QueueCalls* calls) override {
    if (const QueueCalls* before = calls_.at(queue).exchange(calls); before != nullptr) {
      relay_.remove(before->used);
      relay_.remove(before->error);
    }
    if (calls == nullptr) return {};
    if (auto added = relay_.add(calls->error, [this] { needs_reset(); }); !added) return added;
    return relay_.add(calls->used, [this, queue] { used(queue); });
  }
  bool routed(uint16_t queue) const { return calls_.at(queue) != nullptr; }

  std::array<Counter, 4> interrupts;
  Counter resets;

 private:
  std::array<std::atomic<const QueueCalls*>, 4> calls_{};
  CallRelay relay_;
};

class PlaneGuest : public testing::Test {
 protected:
  static constexpr uint16_t kSize = 16;

  Virtqueue make_queue(uint16_t index, VirtqueuePosition position = {}) {
    auto queue =
        Virtqueue::create(memory_, ring(index).layout(), std::move(position),
                          {.max_size = kSize, .event_idx = false, .indirect = true, .name = "q"}, log_);
    EXPECT_TRUE(queue);
    return std::move(*queue);
  }
  Result<void> start(DataPlane& plane, uint16_t index, VirtqueuePosition position = {}) {
    return plane.start_queue(index, make_queue(index, std::move(position)), context(index));
  }
  QueueContext context(uint16_t index) { return {index, kicks_.at(index), signals_, memory_, log_}; }
  FakeRing& ring(uint16_t index) { return rings_.at(index); }

  void offer(uint16_t index, uint16_t head) {
    ring(index).descriptor(head, kBuffers, 16, virtio::kDescNext, static_cast<uint16_t>(head + 1));
    ring(index).descriptor(static_cast<uint16_t>(head + 1), kBuffers + 0x1000, 100, virtio::kDescWrite);
    ring(index).offer(head);
    kicks_.at(index).signal();
  }
  // A buffer to receive into, or of what to send.
  void offer_buffer(uint16_t index, uint16_t head, bool to_write) {
    ring(index).descriptor(head, kHighBase + uint64_t{2048} * head, 2048,
                           to_write ? virtio::kDescWrite : uint16_t{0});
    ring(index).offer(head);
    kicks_.at(index).signal();
  }
  // Waits until so many requests have been used in all; false at the deadline.
  bool wait_used(uint16_t index, uint16_t count) {
    for (;;) {
      const uint64_t seen = signals_.interrupts.at(index).count();
      if (ring(index).used_index() == count) return true;
      if (!signals_.interrupts.at(index).wait_past(seen)) return false;
    }
  }
  // A request goes there and comes back.
  bool serves(uint16_t index, uint16_t head = 0) {
    const uint16_t before = ring(index).used_index();
    offer(index, head);
    return wait_used(index, static_cast<uint16_t>(before + 1)) && ring(index).used(before).id == head;
  }
  // As after a reset: nothing has been offered or used.
  void empty_ring(uint16_t index) {
    EXPECT_TRUE(memory_.fill(ring(index).layout().descriptors, 0x8000, std::byte{0}));
    ring(index).set_avail_index(0);
  }
  std::byte answer() const { return *memory_.load<std::byte>(kBuffers + 0x1000); }

  GuestMemory memory_ = holed_memory(true);
  Log log_;
  FakeSignals signals_;

 private:
  std::array<EventFd, 4> kicks_;
  std::array<FakeRing, 4> rings_{
      FakeRing{memory_, kSize, kRingArea}, FakeRing{memory_, kSize, kRingArea + 0x8000},
      FakeRing{memory_, kSize, kRingArea + 0x10000}, FakeRing{memory_, kSize, kRingArea + 0x18000}};
};

}  // namespace minivmm::test
