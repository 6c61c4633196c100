// The virtqueue walk: the input is guest memory (descriptors, rings, indirect tables) and what the device
// does.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tests/fuzz/input.h"
#include "virtio/virtqueue.h"

namespace {

using namespace minivmm;
using minivmm::test::Input;

constexpr uint16_t kSize = 16;
constexpr uint64_t kLow = 0x4000;  // RAM, a hole, RAM
constexpr Gpa kHigh{0x6000};
constexpr VirtqueueLayout kLayout{kSize, Gpa{0}, Gpa{0x400}, Gpa{0x800}};

// Reads and writes all of a chain, as a device might.
void use(Chain& chain) {
  std::array<std::byte, 64> bytes{};
  const uint64_t in = std::min<uint64_t>(chain.readable_bytes(), bytes.size());
  MV_CHECK(chain.read(chain.readable_bytes() - in, std::span(bytes).first(in)));
  MV_CHECK(!chain.read(chain.readable_bytes(), std::span(bytes).first(1)));
  const uint64_t out = std::min<uint64_t>(chain.writable_bytes(), bytes.size());
  MV_CHECK(chain.write(chain.writable_bytes() - out, std::span(bytes).first(out)));
  IoVec pieces;
  MV_CHECK(chain.writable_slices(0, chain.writable_bytes(), pieces));
  MV_CHECK(chain.readable_slices(0, chain.readable_bytes(), pieces));
  for (const iovec& piece : pieces) {
    if (piece.iov_len == 0) continue;
    auto* host = static_cast<volatile std::byte*>(piece.iov_base);
    host[0] = host[piece.iov_len - 1];  // both ends are ours to touch
  }
}

void run(Input input, GuestMemory& memory) {
  Log log;
  const uint8_t flags = input.byte();
  auto made = Virtqueue::create(memory, kLayout, {input.word(), input.word(), {}},
                                {.max_size = uint16_t{kSize * 2},
                                 .event_idx = (flags & 1) != 0,
                                 .indirect = (flags & 2) != 0,
                                 .name = "fuzz"},
                                log);
  MV_CHECK(made);
  Virtqueue queue = std::move(*made);
  std::vector<Chain> held;
  while (!input.empty()) {
    switch (input.byte() % 6) {
      case 0:
      case 1: {
        auto popped = queue.pop();
        if (popped && *popped) held.push_back(std::move(**popped));
        break;
      }
      case 2:
        if (held.empty()) break;
        use(held.back());
        queue.complete(std::move(held.back()), input.byte());
        held.pop_back();
        break;
      case 3: {
        const bool before = queue.publish();
        MV_CHECK(!queue.publish() || !before);
        break;
      }
      case 4:
        queue.disable_kicks();
        if (queue.enable_kicks()) queue.disable_kicks();
        break;
      default: {  // the guest writes
        const auto value16 = input.word();
        [[maybe_unused]] const auto stored = memory.store(Gpa{input.word()}, value16);
        break;
      }
    }
    MV_CHECK(queue.in_flight() == held.size() && held.size() <= kSize);
  }
  for (Chain& chain : held) queue.give_back(std::move(chain));
  [[maybe_unused]] const bool wanted = queue.publish();
  const VirtqueuePosition position = queue.position();
  MV_CHECK(position.given_back.size() <= kSize);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static GuestMemory memory = GuestMemory::anonymous({{Gpa{0}, kLow}, {kHigh, 0x1000}});
  MV_CHECK(memory.fill(Gpa{0}, kLow, std::byte{0}) && memory.fill(kHigh, 0x1000, std::byte{0}));
  // The front of the input is the rings' page, the rest what happens.
  const size_t ring = std::min<size_t>(size, 0x1000);
  MV_CHECK(memory.write(Gpa{0}, std::as_bytes(std::span(data, ring))));
  // Mostly-zero memory is what a mutator finds hardest to make sense of, so the rings' tail serves as both.
  const size_t script = size > 0x1000 ? 0x1000 : size / 2;
  run(Input({data + script, size - script}), memory);
  return 0;
}
