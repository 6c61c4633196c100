// A guest without a CPU: memory with a hole, rings it writes byte by byte (well-formed or not), and a driver
// that brings a device up through either transport.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <memory>
#include <string>
#include <vector>

#include "tests/conformance/fake_transport.h"
#include "virtio/spec.h"
#include "virtio/virtqueue.h"

namespace minivmm::test {

inline constexpr uint64_t kLowSize = 0x100000;  // RAM, then a hole,
inline constexpr Gpa kHighBase{0x200000};       // then RAM again
inline constexpr uint64_t kHighSize = 0x100000;
inline constexpr Gpa kRingArea{0x10000};  // 0x8000 bytes a queue
inline constexpr Gpa kBuffers{0x80000};   // free for tests, up to the hole

inline GuestMemory holed_memory(bool shared = false) {
  const std::array<GuestMemory::Range, 2> ranges{{{Gpa{0}, kLowSize}, {kHighBase, kHighSize}}};
  GuestMemory::Options options;
  options.shared = shared;
  return {ranges, options};
}

// The driver's side of a split virtqueue, with nothing checked.
class FakeRing {
 public:
  FakeRing(GuestMemory& memory, uint16_t size, Gpa base)
      : memory_(memory), layout_{size, base, base + 0x4000, base + 0x5000} {}

  const VirtqueueLayout& layout() const { return layout_; }
  uint16_t size() const { return layout_.size; }

  void descriptor(uint16_t index, Gpa address, uint32_t len, uint16_t flags = 0, uint16_t next = 0) {
    descriptor_at(layout_.descriptors + uint64_t{16} * index, address, len, flags, next);
  }
  // Anywhere: indirect tables too. Atomic, so that a test may race the device with it.
  void descriptor_at(Gpa at, Gpa address, uint32_t len, uint16_t flags = 0, uint16_t next = 0) {
    auto* words = reinterpret_cast<uint64_t*>(*memory_.contiguous(at, 16));
    std::atomic_ref(words[0]).store(value(address), std::memory_order_relaxed);
    std::atomic_ref(words[1]).store(len | (uint64_t{flags} << 32) | (uint64_t{next} << 48),
                                    std::memory_order_relaxed);
  }
  // Makes `head` available and moves the index, as a driver does.
  void offer(uint16_t head) {
    put(layout_.driver + virtio::kAvailRing + uint64_t{2} * (avail_ % size()), head);
    set_avail_index(static_cast<uint16_t>(avail_ + 1));
  }
  void set_avail_index(uint16_t v) {
    avail_ = v;
    put(layout_.driver + virtio::kAvailIdx, v);
  }
  uint16_t avail_index() const { return avail_; }
  void set_avail_flags(uint16_t v) { put(layout_.driver, v); }
  void set_used_event(uint16_t v) { put(layout_.driver + virtio::kAvailRing + uint64_t{2} * size(), v); }
  uint16_t avail_event() const { return get(layout_.device + virtio::kUsedRing + uint64_t{8} * size()); }
  uint16_t used_flags() const { return get(layout_.device); }
  uint16_t used_index() const { return get(layout_.device + virtio::kUsedIdx); }
  virtio::UsedElement used(uint16_t index) const {
    return *memory_.load<virtio::UsedElement>(layout_.device + virtio::kUsedRing +
                                              uint64_t{8} * (index % size()));
  }

 private:
  uint16_t get(Gpa at) const {
    return std::atomic_ref(*reinterpret_cast<uint16_t*>(*memory_.contiguous(at, 2))).load();
  }
  void put(Gpa at, uint16_t v) {
    std::atomic_ref(*reinterpret_cast<uint16_t*>(*memory_.contiguous(at, 2))).store(v);
  }

  GuestMemory& memory_;
  VirtqueueLayout layout_;
  uint16_t avail_ = 0;
};

class FakeGuest {
 public:
  FakeGuest(TransportKind kind, std::unique_ptr<VirtioDevice> device, Log& log, bool shared = false)
      : memory(holed_memory(shared)),
        sizes(device->traits().queue_sizes),
        receive_queues(device->traits().receive_queues),
        main(static_cast<uint16_t>(std::countr_one(receive_queues))),
        transport(make_transport(kind, std::move(device), memory, log)) {}

  uint64_t offered() {
    return transport->device_features(0) | (uint64_t{transport->device_features(1)} << 32);
  }
  void accept(uint64_t features) {
    transport->set_driver_features(0, static_cast<uint32_t>(features));
    transport->set_driver_features(1, static_cast<uint32_t>(features >> 32));
  }
  // 3.1.1, up to and with FEATURES_OK; accepts everything but `without`.
  void negotiate(uint64_t without = 0) {
    transport->set_status(0);
    ASSERT_EQ(transport->status(), 0);
    transport->set_status(virtio::status::kAcknowledge);
    transport->set_status(virtio::status::kAcknowledge | virtio::status::kDriver);
    accept(offered() & ~without);
    transport->set_status(kSettled);
    ASSERT_EQ(transport->status(), kSettled);
  }
  void set_up_queue(uint16_t queue, const VirtqueueLayout& layout) {
    transport->select_queue(queue);
    transport->set_queue_size(layout.size);
    transport->set_queue_address(VirtioTransport::QueuePart::descriptors, value(layout.descriptors));
    transport->set_queue_address(VirtioTransport::QueuePart::driver, value(layout.driver));
    transport->set_queue_address(VirtioTransport::QueuePart::device, value(layout.device));
    transport->enable_queue();
  }
  void set_up_queues() {
    rings.clear();
    transport->prepare_interrupts(static_cast<uint16_t>(sizes.size()));
    for (uint16_t i = 0; i < sizes.size(); ++i) {
      const Gpa base = kRingArea + uint64_t{0x8000} * i;
      ASSERT_TRUE(memory.fill(base, 0x8000, std::byte{0}));
      rings.emplace_back(memory, std::min<uint16_t>(sizes[i], 64), base);
      set_up_queue(i, rings.back().layout());
      ASSERT_TRUE(transport->queue_enabled());
    }
  }
  // After a reset of the queue alone: fresh rings at the same place.
  void set_up_queue_again(uint16_t queue) {
    const VirtqueueLayout layout = rings[queue].layout();
    ASSERT_TRUE(memory.fill(layout.descriptors, 0x8000, std::byte{0}));
    std::destroy_at(&rings[queue]);
    std::construct_at(&rings[queue], memory, layout.size, layout.descriptors);
    set_up_queue(queue, layout);
  }
  void drive() { transport->set_status(kRunning); }
  // The whole of 3.1.1.
  void bring_up(uint64_t without = 0) {
    negotiate(without);
    set_up_queues();
    drive();
    ASSERT_EQ(transport->status(), kRunning);
  }

  // Stops the device and starts it again: by a reset in each tenth round (true), else by a pause.
  bool stop_and_start(unsigned round) {
    if (round % 10 == 9) {
      bring_up();
      return true;
    }
    transport->transport().pause();
    transport->transport().resume();
    return false;
  }

  // Waits until the device has used `index` entries of the queue in all; false at the deadline.
  bool wait_used(uint16_t queue, uint16_t index) {
    for (;;) {
      const uint64_t seen = transport->queue_interrupts(queue).count();
      const uint16_t used = rings[queue].used_index();
      if (used == index) return true;
      rings[queue].set_used_event(used);
      if (rings[queue].used_index() != used) continue;  // it may have passed the event before it was set
      if (!transport->queue_interrupts(queue).wait_past(seen)) return false;
    }
  }
  bool wait_needs_reset() {
    for (;;) {
      const uint64_t seen = transport->config_interrupts().count();
      if ((transport->status() & virtio::status::kNeedsReset) != 0) return true;
      if (!transport->config_interrupts().wait_past(seen)) return false;
    }
  }
  FakeRing& ring() { return rings[main]; }
  bool receives(uint16_t queue) const { return queue < 64 && (receive_queues >> queue & 1) != 0; }
  // Offers `head`, kicks, and waits for it to come back.
  std::optional<virtio::UsedElement> submit(uint16_t head) { return submit(head, main); }
  std::optional<virtio::UsedElement> submit(uint16_t head, uint16_t queue) {
    const uint16_t before = rings[queue].used_index();
    rings[queue].offer(head);
    transport->kick(queue);
    if (!wait_used(queue, static_cast<uint16_t>(before + 1))) return std::nullopt;
    return rings[queue].used(before);
  }
  // A request every device type can answer, if only by an error: 16 zero bytes to read, 513 to write.
  void probe_chain(uint16_t head) { probe_chain(head, main); }
  void probe_chain(uint16_t head, uint16_t queue) {
    EXPECT_TRUE(memory.fill(kBuffers, 16, std::byte{0}));
    rings[queue].descriptor(head, kBuffers, 16, virtio::kDescNext, static_cast<uint16_t>(head + 1));
    rings[queue].descriptor(static_cast<uint16_t>(head + 1), kBuffers + 0x1000, 513, virtio::kDescWrite);
  }
  // The queue takes a good request and gives it back.
  bool alive() { return alive(main); }
  bool alive(uint16_t queue) {
    probe_chain(4, queue);
    const auto used = submit(4, queue);
    return used && used->id == 4;
  }

  static constexpr uint8_t kSettled =
      virtio::status::kAcknowledge | virtio::status::kDriver | virtio::status::kFeaturesOk;
  static constexpr uint8_t kRunning = kSettled | virtio::status::kDriverOk;

  GuestMemory memory;
  std::vector<uint16_t> sizes;
  uint64_t receive_queues;
  uint16_t main;  // the first queue that answers at once: what is not about a certain queue is done to it
  std::vector<FakeRing> rings;
  std::unique_ptr<FakeTransport> transport;  // last: its workers use the memory
};

}  // namespace minivmm::test
