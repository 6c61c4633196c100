// A machine's place on a private segment. There is no switch: each member is connected to each other one,
// knows which address is behind which connection, and sends its frames there itself. docs/networking.md has
// states and invariants.
#pragma once

#include <array>
#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "devices/net/internal/mac_table.h"
#include "devices/net/internal/peer.h"
#include "devices/net/internal/segment.h"
#include "devices/net/net_backend.h"
#include "devices/net/segmenter.h"
#include "vmm/core/fd.h"

namespace minivmm {

class SwitchPort final : public NetBackend, private NetQueue {
 public:
  static constexpr NetOffloads kOffloads = net_offload::kChecksum | net_offload::kTso4 | net_offload::kTso6 |
                                           net_offload::kTsoEcn | net_offload::kUso;

  // Joins; throws HostError.
  SwitchPort(const std::filesystem::path& folder, std::string_view name);
  ~SwitchPort() override;

  NetTraits traits() const override { return {.kind = "internal", .takes = kOffloads, .gives = kOffloads}; }
  NetQueue& queue(uint16_t) override { return *this; }
  Result<void> allow(NetOffloads offloads) override {
    allowed_.store(offloads, std::memory_order_relaxed);
    return {};
  }

 private:
  static constexpr size_t kMaxPieces = 1024;  // UIO_MAXIOV
  static constexpr size_t kHead = 26;         // virtio header and both Ethernet addresses and the type
  using Head = std::array<std::byte, kHead>;

  int fd() const override { return epoll_.get(); }
  bool ready() override;
  Result<size_t> receive(std::span<const iovec> pieces) override;
  Result<bool> send(std::span<const iovec> pieces) override;

  void add_peer(UniqueFd fd);
  void remove_peer(uint32_t id);
  Peer* find_peer(uint64_t id);
  Peer* next_readable();
  bool look();
  void accept_peers();
  void watch(Peer& peer, bool room);
  void tell_sender();
  void set_timer(std::optional<Patience::Clock::time_point> when);

  Result<size_t> take(Peer& peer, std::span<const iovec> pieces);
  Result<size_t> take_directly(Peer& peer, std::span<const iovec> pieces);
  Result<size_t> take_and_convert(Peer& peer, std::span<const iovec> pieces);
  ssize_t take_message(Peer& peer, std::span<iovec> pieces, bool& cut);

  enum class Sent : uint8_t { yes, no_room, gone };
  Sent put(Peer& peer, std::span<const iovec> frame);
  bool send_to(Peer& peer, std::span<const iovec> frame);
  void stop_waiting(Peer& peer);
  void flood(std::span<const iovec> frame);

  Membership membership_;
  UniqueFd epoll_;
  UniqueFd timer_;
  bool timer_armed_ = false;
  bool told_ = true;  // fd() said that send() may be tried again, after it last had no room
  std::vector<std::unique_ptr<Peer>> peers_;
  uint32_t last_id_ = 0;
  size_t turn_ = 0;       // whose frames are taken
  unsigned in_turn_ = 0;  // frames taken from it in a row
  MacTable table_;
  Segmenter segmenter_;
  std::atomic<NetOffloads> allowed_{0};
  std::array<iovec, kMaxPieces> pieces_{};
};

}  // namespace minivmm
