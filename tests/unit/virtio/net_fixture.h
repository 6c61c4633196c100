// A network card in a fake guest, over both transports, with its cable in the test's hand.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "tests/conformance/fake_guest.h"
#include "tests/conformance/fake_net.h"
#include "virtio/device/net.h"

namespace minivmm::test {

inline constexpr MacAddress kCardMac{{0x52, 0x54, 0, 1, 2, 3}};
inline constexpr NetOffloads kAllOffloads = net_offload::kChecksum | net_offload::kTso4 | net_offload::kTso6 |
                                            net_offload::kTsoEcn | net_offload::kUso;
inline constexpr uint16_t kRxQueue = 0;
inline constexpr uint16_t kTxQueue = 1;

constexpr uint64_t without(std::initializer_list<unsigned> features) {
  uint64_t bits = 0;
  for (const unsigned feature : features) bits |= virtio::feature_bit(feature);
  return bits;
}

class NetTest : public testing::TestWithParam<TransportKind> {
 protected:
  static NetTraits plain(uint16_t pairs = 1) { return {.kind = "fake", .queue_pairs = pairs}; }
  static NetTraits offloading(uint16_t pairs = 1) {
    return {.kind = "fake", .queue_pairs = pairs, .takes = kAllOffloads, .gives = kAllOffloads};
  }

  void make(const NetTraits& traits) {
    guest_.reset();
    auto net = std::make_unique<FakeNet>(traits);
    net_ = net.get();
    auto device =
        std::make_unique<VirtioNet>(std::move(net), VirtioNet::Options{.index = 0, .mac = kCardMac}, log_);
    device_ = device.get();
    guest_ = std::make_unique<FakeGuest>(GetParam(), std::move(device), log_);
  }
  void start(const NetTraits& traits, uint64_t not_accepted = 0) {
    make(traits);
    guest_->bring_up(not_accepted);
  }
  FakeRing& rx() { return guest_->rings[kRxQueue]; }
  FakeRing& tx() { return guest_->rings[kTxQueue]; }
  FakeWire& wire(size_t pair = 0) { return net_->wire(pair); }

  // Makes `count` receive buffers of `size` bytes available, in the descriptors from `first` on.
  void offer_buffers(unsigned count, uint32_t size, uint16_t first = 0) {
    for (unsigned i = 0; i < count; ++i) {
      const auto index = static_cast<uint16_t>(first + i);
      rx().descriptor(index, buffer(index), size, virtio::kDescWrite);
      rx().offer(index);
    }
    guest_->transport->kick(kRxQueue);
  }
  static Gpa buffer(uint16_t index) { return kHighBase + uint64_t{0x4000} * index; }

  // The frame that begins with the used entry `at`, header included; `at` moves behind it.
  Bytes received(uint16_t& at) {
    Bytes out;
    unsigned buffers = 1;
    for (unsigned i = 0; i < buffers; ++i, ++at) {
      const auto used = rx().used(at);
      const size_t before = out.size();
      out.resize(before + used.len);
      EXPECT_TRUE(
          guest_->memory.read(buffer(static_cast<uint16_t>(used.id)), std::span(out).subspan(before)));
      if (i == 0 && out.size() >= kNetHeaderSize) buffers = header_of(out).num_buffers;
    }
    return out;
  }

  // Offers a frame in one descriptor of the transmit queue.
  void offer_frame(const Bytes& bytes, uint16_t index = 0) {
    ASSERT_TRUE(guest_->memory.write(tx_buffer(index), bytes));
    tx().descriptor(index, tx_buffer(index), static_cast<uint32_t>(bytes.size()));
    tx().offer(index);
  }
  static Gpa tx_buffer(uint16_t index) { return kBuffers + uint64_t{0x1000} * index; }
  void send_frame(const Bytes& bytes, uint16_t index = 0) {
    const uint16_t before = tx().used_index();
    offer_frame(bytes, index);
    guest_->transport->kick(kTxQueue);
    ASSERT_TRUE(guest_->wait_used(kTxQueue, static_cast<uint16_t>(before + 1)));
  }

  // Runs one command on the control queue; its answer, or nothing if there was none.
  std::optional<net::Ack> command(uint8_t command_class, uint8_t code, std::span<const std::byte> data) {
    const auto queue = static_cast<uint16_t>(control_queue_);
    Bytes bytes{std::byte{command_class}, std::byte{code}};
    bytes.insert(bytes.end(), data.begin(), data.end());
    const Gpa at = kBuffers + 0x40000;
    EXPECT_TRUE(guest_->memory.write(at, bytes));
    EXPECT_TRUE(guest_->memory.store(at + 0x8000, uint8_t{0x77}));
    FakeRing& ring = guest_->rings[queue];
    ring.descriptor(0, at, static_cast<uint32_t>(bytes.size()), virtio::kDescNext, 1);
    ring.descriptor(1, at + 0x8000, 1, virtio::kDescWrite);
    const auto used = guest_->submit(0, queue);
    if (!used || used->len != 1) return std::nullopt;
    return static_cast<net::Ack>(*guest_->memory.load<uint8_t>(at + 0x8000));
  }
  template <class T>
    requires std::is_trivially_copyable_v<T>  // a vector is not: the bytes in it are meant
  std::optional<net::Ack> command(uint8_t command_class, uint8_t code, const T& data) {
    return command(command_class, code, std::as_bytes(std::span(&data, 1)));
  }

  net::Config config() {
    net::Config config{};
    guest_->transport->read_config(0, std::as_writable_bytes(std::span(&config, 1)));
    return config;
  }

  Log log_;
  FakeNet* net_ = nullptr;
  VirtioNet* device_ = nullptr;
  unsigned control_queue_ = 2;
  std::unique_ptr<FakeGuest> guest_;  // owns the two
};

// NOLINTNEXTLINE(cppcoreguidelines-macro-usage): gtest wants the suite's name in each file
#define MV_OVER_BOTH_TRANSPORTS(suite)                                            \
  INSTANTIATE_TEST_SUITE_P(                                                       \
      Transport, suite, testing::Values(TransportKind::pci, TransportKind::mmio), \
      [](const auto& param) { return param.param == TransportKind::pci ? "pci" : "mmio"; })

}  // namespace minivmm::test
