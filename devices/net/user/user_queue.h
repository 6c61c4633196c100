// The one queue of a card on user networking: the guest's frames on their way to libslirp and back. Any
// thread may call; libslirp runs on the one that does.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "devices/net/net_backend.h"
#include "devices/net/user/flow_table.h"
#include "devices/net/user/frame_ring.h"
#include "devices/net/user/gate.h"
#include "devices/net/user/lingering.h"
#include "devices/net/user/reassembly.h"
#include "devices/net/user/redirects.h"
#include "devices/net/user/segments.h"
#include "devices/net/user/stack.h"
#include "devices/net/user/user_config.h"

namespace minivmm::user_net {

class UserQueue final : public NetQueue, private FrameSink {
 public:
  explicit UserQueue(UserNetConfig config);  // throws HostError

  int fd() const override { return stack_->fd(); }
  Result<size_t> receive(std::span<const iovec> pieces) override;
  Result<bool> send(std::span<const iovec> pieces) override;
  void flush() override;
  bool ready() override;

  void allow(NetOffloads offloads);
  void add_forward(const Forward&);  // throw HostError
  void remove_forward(const Forward&);

 private:
  // Frames that wait: as much as all of a connection's window 64 times over.
  static constexpr size_t kRingBytes = size_t{4} << 20;
  // Below that much room in it the sockets are left alone.
  static constexpr size_t kRingReserve = size_t{1} << 20;

  // FrameSink
  void take(std::span<uint8_t> frame) override;
  bool wants_more() const override { return ring_.has_room(kRingReserve); }

  void from_guest(std::span<uint8_t> frame, std::span<const uint8_t, kNetHeaderSize> header);
  void to_stack(Packet& packet);
  bool ends_last(const Packet& packet);  // with this, both ends have ended their connection
  void thin_out();
  bool finish_checksum(Packet& packet, std::span<const uint8_t, kNetHeaderSize> header) const;
  bool bounded(const Packet& packet);                // TCP: not too much that libslirp has to keep for later
  uint16_t note_acknowledged(const Packet& packet);  // returns GuestLink::mss
  void note_gone(const Flow& flow) { unacked_ -= flow.unacked; }
  void deliver(std::span<const uint8_t, kNetHeaderSize> header, std::span<const uint8_t> frame);
  void refuse(const Packet& packet);

  const UserNetConfig config_;
  std::mutex mutex_;  // all below
  GuestLink link_;
  FlowTable flows_;
  Gate gate_;
  Redirects redirects_;
  Reassembly reassembly_;
  Lingering lingering_;
  FrameRing ring_;
  std::vector<uint8_t> buffer_;            // the frame being sent
  std::vector<uint8_t> scratch_;           // a fragment or segment being cut
  uint32_t unacked_ = 0;                   // segments of all flows
  std::span<const iovec> waiting_;         // where the next frame may go without a detour; empty: nowhere
  std::optional<Result<size_t>> arrived_;  // what has come of that
  std::optional<Stack> stack_;
};

}  // namespace minivmm::user_net
