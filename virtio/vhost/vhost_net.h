// vhost-net: the kernel moves frames between a tap device and the guest's rings. One vhost descriptor, and
// one kernel thread, a pair of queues.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "virtio/vhost/data_plane.h"
#include "virtio/vhost/kernel_vhost.h"

namespace minivmm {

class VhostNet final : public DataPlane {
 public:
  struct Pair {
    UniqueFd vhost;  // open_vhost_device("net")
    int tap;         // its queue: with a 12-byte header in front of each frame; outlives this
  };
  // Throws HostError.
  explicit VhostNet(std::vector<Pair> pairs);

  uint64_t features() const override { return features_; }
  void ack_features(uint64_t features) override;
  Result<void> start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) override;
  std::optional<Virtqueue> stop_queue(uint16_t index) override;
  void link_is_up() override;

 private:
  struct Half {
    KernelVhost* vhost;
    int tap;
    std::unique_ptr<RemoteRing> ring;  // null: it does not run
  };
  Result<void> start(uint16_t index);
  bool run(size_t index);

  std::mutex mutex_;
  std::vector<std::unique_ptr<KernelVhost>> vhosts_;
  std::vector<Half> halves_;  // by queue: receive, transmit, receive, ...
  uint64_t features_ = 0;
  uint64_t acked_ = 0;
};

}  // namespace minivmm
