// The console device's control messages, through real queues: whatever the guest says, each buffer comes
// back, and what the device says is well-formed and bounded.
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <span>
#include <thread>
#include <vector>

#include "virtio/device/console.h"
#include "virtio/spec.h"

namespace {

using namespace minivmm;

constexpr uint16_t kSize = 64;
constexpr uint16_t kToGuest = 2;
constexpr uint16_t kFromGuest = 3;
constexpr size_t kPorts = 2;
constexpr Gpa kMessages{0x40000};
constexpr Gpa kAnswers{0x50000};

class Signals final : public VirtioSignals {
 public:
  void used(uint16_t) override {}
  void config_changed() override {}
  Result<void> set_calls(uint16_t, const QueueCalls*) override { return {}; }
  void needs_reset() override { MV_CHECK(false); }
};

class Ring {
 public:
  Ring(GuestMemory& memory, uint16_t index) : memory_(memory), base_(Gpa{uint64_t{0x8000} * (index + 1U)}) {
    MV_CHECK(memory.fill(base_, 0x8000, std::byte{0}));
  }
  VirtqueueLayout layout() const { return {kSize, base_, base_ + 0x4000, base_ + 0x5000}; }
  void offer(Gpa address, uint32_t len, uint16_t flags) {
    const virtio::Descriptor descriptor{value(address), len, flags, 0};
    MV_CHECK(memory_.store(base_ + uint64_t{16} * offered, descriptor));
    MV_CHECK(memory_.store(base_ + (0x4000 + virtio::kAvailRing + uint64_t{2} * offered), offered));
    ++offered;
    at(0x4000 + virtio::kAvailIdx).store(offered, std::memory_order_release);
  }
  uint16_t used() const { return at(0x5000 + virtio::kUsedIdx).load(std::memory_order_acquire); }
  virtio::UsedElement element(uint16_t i) const {
    return *memory_.load<virtio::UsedElement>(base_ + (0x5000 + virtio::kUsedRing + uint64_t{8} * i));
  }
  uint16_t offered = 0;

 private:
  std::atomic_ref<uint16_t> at(uint64_t offset) const {
    return std::atomic_ref(*reinterpret_cast<uint16_t*>(*memory_.contiguous(base_ + offset, 2)));
  }
  GuestMemory& memory_;
  Gpa base_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static GuestMemory memory = GuestMemory::anonymous({{Gpa{0}, 0x80000}});
  Log log;
  Signals signals;
  std::vector<EventFd> kicks(2 * kPorts + 2);
  std::vector<VirtioConsole::PortOptions> options;
  for (const char* name : {"org.example.a", "b"}) options.push_back({name, make_null_serial()});
  VirtioConsole console(0, std::move(options), log);
  console.ack_features(virtio::kFeatureVersion1 | virtio::feature_bit(1));
  Ring to_guest(memory, kToGuest);
  Ring from_guest(memory, kFromGuest);
  std::span input(data, size);
  const auto byte = [&]() -> uint8_t {
    if (input.empty()) return 0;
    const uint8_t v = input.front();
    input = input.subspan(1);
    return v;
  };
  // Buffers for answers, of any size, before the messages or after them.
  const unsigned answers = byte() % kSize;
  const bool first = byte() % 2 == 0;
  const auto offer_answers = [&] {
    for (unsigned i = 0; i < answers; ++i) {
      to_guest.offer(kAnswers + uint64_t{256} * i, byte(), virtio::kDescWrite);
    }
  };
  if (first) offer_answers();
  while (!input.empty() && from_guest.offered < kSize) {
    // Mostly what a driver might say.
    const uint8_t how = byte();
    std::array<std::byte, 8> message{std::byte(byte() % 3), {}, {}, {}, std::byte(byte() % 8), {},
                                     std::byte(byte() % 2), {}};
    if (how >= 0xe0) {
      for (std::byte& b : message) b = std::byte(byte());
    }
    const Gpa at = kMessages + uint64_t{16} * from_guest.offered;
    MV_CHECK(memory.write(at, message));
    from_guest.offer(at, how % 16 == 15 ? byte() % 16 : 8, 0);
  }
  if (!first) offer_answers();
  for (const uint16_t index : {kToGuest, kFromGuest}) {
    auto queue =
        Virtqueue::create(memory, (index == kToGuest ? to_guest : from_guest).layout(), {},
                          {.max_size = kSize, .event_idx = false, .indirect = false, .name = "fuzz"}, log);
    MV_CHECK(queue &&
             console.start_queue(index, std::move(*queue), {index, kicks[index], signals, memory, log}));
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (from_guest.used() != from_guest.offered) {
    MV_CHECK(std::chrono::steady_clock::now() < deadline);
    std::this_thread::yield();
  }
  for (const uint16_t index : {kToGuest, kFromGuest}) MV_CHECK(console.stop_queue(index).has_value());
  for (uint16_t i = 0; i < from_guest.used(); ++i) MV_CHECK(from_guest.element(i).len == 0);
  for (uint16_t i = 0; i < to_guest.used(); ++i) {
    const auto used = to_guest.element(i);
    if (used.len == 0) continue;
    MV_CHECK(used.len >= 8 && used.id < kSize);
    const auto message = *memory.load<std::array<uint16_t, 4>>(kAnswers + uint64_t{256} * used.id);
    MV_CHECK(message[0] < kPorts && message[1] == 0);
    MV_CHECK(message[2] == 1 || message[2] == 6 || message[2] == 7);
  }
  return 0;
}
