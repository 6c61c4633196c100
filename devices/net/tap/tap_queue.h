// One queue of a tap or macvtap device: a descriptor whose frames go straight between the kernel and the
// guest's memory.
#pragma once

#include <array>

#include "devices/net/link_state.h"
#include "devices/net/net_backend.h"
#include "vmm/core/fd.h"

namespace minivmm {

class TapQueue final : public NetQueue {
 public:
  // `fd`: set up by tap_device.h; non-blocking. `link` outlives it, and is told when the device has gone.
  TapQueue(UniqueFd fd, LinkState& link) : fd_(std::move(fd)), link_(link) {}

  int fd() const override { return fd_.get(); }
  Result<size_t> receive(std::span<const iovec> pieces) override;
  // A full queue loses the frame, as a switch does: the device is set up not to be full (TUNSETSNDBUF), so
  // that the host's own queueing discipline decides.
  Result<bool> send(std::span<const iovec> pieces) override;
  bool ready() override;

 private:
  static constexpr size_t kMaxPieces = 1024;  // UIO_MAXIOV

  UniqueFd fd_;
  LinkState& link_;
  std::array<iovec, kMaxPieces> pieces_{};
};

}  // namespace minivmm
