// The network card's queues without their threads: the input is guest memory (rings, descriptors, headers,
// commands), what the guest changes meanwhile, and what comes over the cable.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "devices/net/frame_pieces.h"
#include "tests/fuzz/input.h"
#include "virtio/device/net_control.h"
#include "virtio/device/net_offloads.h"
#include "virtio/device/net_rx.h"
#include "virtio/device/net_tx.h"
#include "vmm/core/state.h"

namespace {

using namespace minivmm;
using minivmm::test::Input;

constexpr uint16_t kSize = 16;
constexpr uint64_t kLow = 0x8000;  // RAM, a hole, RAM
constexpr Gpa kHigh{0xa000};
constexpr uint64_t kHighSize = 0x20000;
// From address 0 on, so that short inputs reach it: what is sent, then the queues.
constexpr uint64_t kFrameBytes = 0x40;       // one for each descriptor of the transmit queue
constexpr uint64_t kCommandAt = 0x20;        // in every other one, where a command stands
constexpr Gpa kQueues{kSize * kFrameBytes};  // receive, transmit, control
constexpr uint64_t kQueueBytes = 0x400;
constexpr uint64_t kAvailAt = 0x100;
constexpr uint64_t kUsedAt = 0x180;
constexpr uint64_t kFront = 0x1000;  // all of that

class Wire final : public NetQueue {
 public:
  explicit Wire(NetOffloads takes) : takes_(takes) {}
  int fd() const override { return -1; }
  Result<size_t> receive(std::span<const iovec> pieces) override {
    if (size == 0) return 0;
    const size_t wanted = std::exchange(size, 0);
    size_t done = 0;
    for (const iovec& piece : pieces) {
      const size_t n = std::min(piece.iov_len, wanted - done);
      if (n != 0) std::memset(piece.iov_base, 0x5a, n);
      done += n;
    }
    if (done < wanted) return fail(Errc::too_large, "it did not fit");
    MV_CHECK(pieces[0].iov_len == sizeof header);
    std::memcpy(pieces[0].iov_base, &header, std::min(done, sizeof header));
    return done;
  }
  Result<bool> send(std::span<const iovec> pieces) override {
    const size_t bytes = pieces_size(pieces);
    MV_CHECK(bytes >= kNetHeaderSize + net::kEthernetHeader && bytes <= kMaxFrame);
    net::Header sent{};
    copy_from_pieces(pieces, 0, std::as_writable_bytes(std::span(&sent, 1)));
    const net::Header as_sent = sent;
    MV_CHECK(net::check_header(sent, bytes - kNetHeaderSize, takes_) && sent == as_sent);
    std::vector<std::byte> all(bytes);
    MV_CHECK(copy_from_pieces(pieces, 0, all) == bytes);
    if (!room) return false;
    return true;
  }

  bool room = true;
  size_t size = 0;  // of the frame that comes next
  net::Header header{};

 private:
  NetOffloads takes_;
};

class Quiet final : public VirtioSignals {
 public:
  void used(uint16_t) override {}
  void config_changed() override {}
  void needs_reset() override {}
  Result<void> set_calls(uint16_t, const QueueCalls*) override { return {}; }
};

Gpa queue_base(uint16_t index) {
  return kQueues + kQueueBytes * index;
}

Virtqueue make_queue(GuestMemory& memory, uint16_t index, uint8_t flags, Log& log) {
  const Gpa base = queue_base(index);
  auto made = Virtqueue::create(memory, {kSize, base, base + kAvailAt, base + kUsedAt}, {},
                                {.max_size = uint16_t{kSize * 2},
                                 .event_idx = (flags & 1) != 0,
                                 .indirect = (flags & 2) != 0,
                                 .name = "fuzz"},
                                log);
  MV_CHECK(made);
  return std::move(*made);
}

template <class T>
void flip(GuestMemory& memory, Gpa at, T with) {
  MV_CHECK(memory.store(at, static_cast<T>(*memory.load<T>(at) ^ with)));
}

// Combined with what the input has there, so that a few changed bytes leave most of the rings as a driver
// would write them: a mutator would not hit upon them otherwise.
void add_good_rings(GuestMemory& memory) {
  constexpr std::array<uint32_t, kSize / 2> kCommands{3, 8, 4, 4, 10, 10, 16, 2};  // bytes; as commands have
  for (uint16_t queue = 0; queue < 3; ++queue) {
    const Gpa base = queue_base(queue);
    for (uint16_t i = 0; i < kSize; ++i) {
      const Gpa descriptor = base + uint64_t{16} * i;
      const bool command = queue == 2 && i % 2 == 0;
      const bool to_write = queue == 0 || (queue == 2 && !command);
      uint64_t where = kFrameBytes * i;
      if (queue == 0) where = value(kHigh) + uint64_t{0x1000} * i;
      if (command) where += kCommandAt;
      flip<uint64_t>(memory, descriptor, where);
      flip<uint32_t>(memory, descriptor + 8,
                     queue == 0 ? 0x1000
                     : command  ? kCommands.at(i / 2U)
                                : static_cast<uint32_t>(kFrameBytes));
      flip<uint16_t>(
          memory, descriptor + 12,
          static_cast<uint16_t>((to_write ? virtio::kDescWrite : 0) | (command ? virtio::kDescNext : 0)));
      flip<uint16_t>(memory, descriptor + 14, static_cast<uint16_t>(i + 1));
      flip<uint16_t>(memory, base + kAvailAt + virtio::kAvailRing + uint64_t{2} * i,
                     static_cast<uint16_t>(queue == 2 ? i / 2 * 2 : i));
    }
    flip<uint16_t>(memory, base + kAvailAt + virtio::kAvailIdx, kSize);
  }
}

void run_control(Virtqueue& queue, uint64_t features, net::ControlState& state) {
  for (unsigned i = 0; i < kSize; ++i) {
    auto popped = queue.pop();
    if (!popped || !*popped) return;
    const net::Ack ack = net::run_command(**popped, {features, 4}, state);
    MV_CHECK(state.pairs >= 1 && state.pairs <= 4 && !state.filter.own.is_multicast());
    if ((*popped)->writable_bytes() != 0) {
      MV_CHECK((*popped)->write(0, std::as_bytes(std::span(&ack, 1))));
    }
    queue.complete(std::move(**popped), 0);
  }
}

void check_state(const net::ControlState& state) {
  StateWriter writer;
  state.save(writer);
  const auto reader = StateReader::parse(writer.data());
  MV_CHECK(reader);
  const auto again = net::ControlState::parse(*reader, 4);
  MV_CHECK(again && again->pairs == state.pairs && again->gives == state.gives);
}

void run(Input input, GuestMemory& memory) {
  Log log;
  Quiet signals;
  const EventFd kick;
  const StopFlag stop;
  const uint8_t flags = input.byte();
  const uint64_t features = (flags & 4) != 0 ? ~uint64_t{0} : input.word() | (uint64_t{input.word()} << 16);
  const NetOffloads takes = net::host_offloads(features);
  Wire wire(takes);
  NetSettingsBoard board;
  net::ControlState state;
  const auto post = [&] {
    NetSettings settings{.filter = state.filter, .gives = net::guest_offloads(features)};
    settings.filter.vlan_filter = (flags & 16) != 0;
    if (state.gives) settings.gives &= *state.gives;
    board.post(settings);
  };
  post();
  NetRx rx(wire, board, {.mergeable = (flags & 8) != 0, .name = "fuzz"}, make_queue(memory, 0, flags, log),
           {0, kick, signals, memory, log});
  NetTx tx(wire, {.takes = takes, .name = "fuzz"}, make_queue(memory, 1, flags, log),
           {1, kick, signals, memory, log});
  Virtqueue control = make_queue(memory, 2, flags, log);
  while (!input.empty()) {
    switch (input.byte() % 9) {
      case 0:
      case 1: {
        wire.room = input.byte() % 4 != 0;
        [[maybe_unused]] const auto sent = tx.drain(stop);
        break;
      }
      case 2:
      case 3: {
        wire.size = std::min<size_t>(size_t{input.word()} + input.byte(), kMaxFrame);
        for (size_t i = 0; i < sizeof wire.header; ++i)
          reinterpret_cast<uint8_t*>(&wire.header)[i] = input.byte();
        [[maybe_unused]] const auto received = rx.drain(stop);
        break;
      }
      case 4:
        run_control(control, features, state);
        post();
        break;
      case 5: {
        [[maybe_unused]] const bool a = rx.queue().publish();
        [[maybe_unused]] const bool b = tx.queue().publish();
        [[maybe_unused]] const bool c = control.publish();
        break;
      }
      case 6:
        rx.settle();
        tx.settle();
        MV_CHECK(rx.queue().in_flight() == 0 && tx.queue().in_flight() == 0);
        break;
      case 7: {  // the driver makes more available
        const Gpa at = queue_base(input.byte() % 3) + (kAvailAt + virtio::kAvailIdx);
        const auto index = static_cast<uint16_t>(*memory.load<uint16_t>(at) + input.byte() % (kSize + 1));
        MV_CHECK(memory.store(at, index));
        break;
      }
      default: {  // the guest writes
        const auto value16 = input.word();
        [[maybe_unused]] const auto stored = memory.store(Gpa{input.word()}, value16);
        break;
      }
    }
    MV_CHECK(rx.queue().in_flight() <= kSize && tx.queue().in_flight() <= (tx.blocked() ? 1U : 0U));
  }
  rx.settle();
  tx.settle();
  MV_CHECK(rx.queue().in_flight() == 0 && tx.queue().in_flight() == 0 && control.in_flight() == 0);
  check_state(state);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static GuestMemory memory = GuestMemory::anonymous({{Gpa{0}, kLow}, {kHigh, kHighSize}});
  MV_CHECK(memory.fill(Gpa{0}, kLow, std::byte{0}) && memory.fill(kHigh, kHighSize, std::byte{0}));
  // The front of the input is what is sent and the three queues' rings, the rest what happens.
  const size_t front = std::min<size_t>(size / 2, kFront);
  MV_CHECK(memory.write(Gpa{0}, std::as_bytes(std::span(data, front))));
  add_good_rings(memory);
  run(Input({data + front, size - front}), memory);
  return 0;
}
