#include "virtio/vhost/vhost_vsock.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <utility>

#include "virtio/vhost/linux_vhost.h"

namespace minivmm {

namespace {
constexpr uint64_t kFeatureSeqpacket = virtio::feature_bit(1);  // virtio 1.2, 5.10.3
}

VhostVsock::VhostVsock(UniqueFd fd)
    : vhost_(std::move(fd), "/dev/vhost-vsock"),
      features_(vhost_.features() & (kVhostRingFeatures | kFeatureSeqpacket)) {}

Result<bool> VhostVsock::set_guest_cid(uint64_t cid) {
  if (::ioctl(vhost_.fd(), VHOST_VSOCK_SET_GUEST_CID, &cid) == 0) return true;
  if (errno == EADDRINUSE) return false;
  return fail(Errc::invalid, "vhost-vsock refuses the guest's address");
}

void VhostVsock::ack_features(uint64_t features) {
  const std::scoped_lock lock(mutex_);
  acked_ = features;
}

Result<void> VhostVsock::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  const std::scoped_lock lock(mutex_);
  auto ring = RemoteRing::create(std::move(queue), context);
  if (!ring) return std::unexpected(ring.error());
  rings_.at(index) = std::move(*ring);
  auto started = start(index);
  if (!started) rings_.at(index).reset();
  return started;
}

Result<void> VhostVsock::start(uint16_t index) {
  const RemoteRing& ring = *rings_.at(index);
  if (rings_.at(index ^ 1U) == nullptr) {
    if (auto set = vhost_.set_features(acked_ & features_); !set) return set;
    if (auto set = vhost_.set_memory(ring.context.memory); !set) return set;
  }
  if (auto set = vhost_.set_up_ring(index, ring); !set) return set;
  if (rings_.at(index ^ 1U) == nullptr) return {};
  if (!run(true)) return fail(Errc::io, "vhost-vsock does not start");
  for (const auto& started : rings_) started->context.kick.signal();
  return {};
}

bool VhostVsock::run(bool on) {
  int wanted = on ? 1 : 0;
  return ::ioctl(vhost_.fd(), VHOST_VSOCK_SET_RUNNING, &wanted) == 0;
}

std::optional<Virtqueue> VhostVsock::stop_queue(uint16_t index) {
  const std::scoped_lock lock(mutex_);
  if (index >= rings_.size() || rings_.at(index) == nullptr) return std::nullopt;
  if (rings_.at(index ^ 1U) != nullptr) {
    run(false);
    // The other one may be started again with this one stopped by a reset of the queue alone: from where it
    // has come.
    RemoteRing& other = *rings_.at(index ^ 1U);
    if (const auto base = vhost_.ring_base(index ^ 1U)) other.next_avail = *base;
  }
  const std::unique_ptr<RemoteRing> ring = std::exchange(rings_.at(index), nullptr);
  if (const auto base = vhost_.ring_base(index)) {
    ring->queue.taken_back(*base);
  } else {
    ring->queue.taken_back_in_order();
  }
  return std::move(ring->queue);
}

}  // namespace minivmm
