// vhost-vsock: the kernel carries the guest's sockets to AF_VSOCK on the host.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "virtio/vhost/data_plane.h"
#include "virtio/vhost/kernel_vhost.h"

namespace minivmm {

// Queues 0 and 1; they run while both are started, for the kernel knows them only together.
class VhostVsock final : public DataPlane {
 public:
  // `fd`: open_vhost_device("vsock"). Throws HostError.
  explicit VhostVsock(UniqueFd fd);

  // The guest's address, the only one of its number on this host; with no queue running. False: somebody has
  // it.
  Result<bool> set_guest_cid(uint64_t cid);

  uint64_t features() const override { return features_; }
  void ack_features(uint64_t features) override;
  Result<void> start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) override;
  std::optional<Virtqueue> stop_queue(uint16_t index) override;

 private:
  Result<void> start(uint16_t index);
  bool run(bool on);

  std::mutex mutex_;
  KernelVhost vhost_;
  uint64_t features_;
  uint64_t acked_ = 0;
  std::array<std::unique_ptr<RemoteRing>, 2> rings_;
};

}  // namespace minivmm
