#include "devices/net/net_mtu.h"

#include <array>
#include <cstring>

#include "devices/net/frame_pieces.h"
#include "devices/net/net_filter.h"

namespace minivmm {

namespace {

constexpr size_t kEthernetHeader = 14;
constexpr size_t kVlanTag = 4;

class MtuQueue final : public NetQueueFilter {
 public:
  MtuQueue(NetQueue& below, uint16_t mtu) : NetQueueFilter(below), mtu_(mtu) {}

  Result<size_t> receive(std::span<const iovec> pieces) override {
    auto received = below().receive(pieces);
    if (received && *received != 0 && too_large(pieces, *received)) return fail(Errc::too_large, kTooLarge);
    return received;
  }
  Result<bool> send(std::span<const iovec> pieces) override {
    if (too_large(pieces, pieces_size(pieces))) return fail(Errc::too_large, kTooLarge);
    return below().send(pieces);
  }

 private:
  static constexpr const char* kTooLarge = "a packet larger than the MTU";

  bool too_large(std::span<const iovec> pieces, size_t size) const {
    if (size <= kNetHeaderSize + kEthernetHeader + mtu_) return false;
    std::array<std::byte, kNetHeaderSize + kEthernetHeader> head{};
    copy_from_pieces(pieces, 0, head);
    if (head[1] != std::byte{0}) return false;  // gso_type
    const bool tagged =
        head[kNetHeaderSize + 12] == std::byte{0x81} && head[kNetHeaderSize + 13] == std::byte{0};
    return size > kNetHeaderSize + kEthernetHeader + (tagged ? kVlanTag : 0) + mtu_;
  }

  uint16_t mtu_;
};

class MtuNet final : public NetFilter {
 public:
  MtuNet(std::unique_ptr<NetBackend> below, uint16_t mtu) : NetFilter(std::move(below)), mtu_(mtu) {
    wrap_queues([mtu](NetQueue& queue) { return std::make_unique<MtuQueue>(queue, mtu); });
  }
  NetTraits traits() const override {
    NetTraits traits = NetFilter::traits();
    traits.mtu = mtu_;
    return traits;
  }

 private:
  uint16_t mtu_;
};

}  // namespace

std::unique_ptr<NetBackend> limit_net_mtu(std::unique_ptr<NetBackend> below, uint16_t mtu) {
  return std::make_unique<MtuNet>(std::move(below), mtu);
}

}  // namespace minivmm
