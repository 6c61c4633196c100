#include "virtio/vhost/vhost_net.h"

#include <sys/ioctl.h>

#include <utility>

#include "virtio/device/net_offloads.h"
#include "virtio/vhost/linux_vhost.h"

namespace minivmm {

namespace {

// The kernel's part is the rings and mergeable buffers; offloads are the tap's.
constexpr uint64_t kVhostNetFeatures = kVhostRingFeatures | virtio::feature_bit(net::kFeatureMrgRxbuf);
constexpr NetOffloads kAllOffloads = 0xff;

bool set_backend(int vhost, unsigned ring, int tap) {
  vhost_vring_file backend{.index = ring, .fd = tap};
  return ::ioctl(vhost, VHOST_NET_SET_BACKEND, &backend) == 0;
}

}  // namespace

VhostNet::VhostNet(std::vector<Pair> pairs) {
  uint64_t common = kVhostNetFeatures;
  for (Pair& pair : pairs) {
    KernelVhost& vhost =
        *vhosts_.emplace_back(std::make_unique<KernelVhost>(std::move(pair.vhost), "/dev/vhost-net"));
    common &= vhost.features();
    for (unsigned i = 0; i < 2; ++i) halves_.push_back({&vhost, pair.tap, nullptr});
  }
  features_ = common | net::host_features(kAllOffloads) | net::guest_features(kAllOffloads) |
              virtio::feature_bit(net::kFeatureCtrlGuestOffloads);
}

void VhostNet::ack_features(uint64_t features) {
  const std::scoped_lock lock(mutex_);
  acked_ = features;
}

Result<void> VhostNet::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  const std::scoped_lock lock(mutex_);
  auto ring = RemoteRing::create(std::move(queue), context);
  if (!ring) return std::unexpected(ring.error());
  halves_[index].ring = std::move(*ring);
  auto started = start(index);
  if (!started) halves_[index].ring.reset();
  return started;
}

Result<void> VhostNet::start(uint16_t index) {
  const Half& half = halves_[index];
  if (halves_[index ^ 1U].ring == nullptr) {  // the first of its pair
    if (auto set = half.vhost->set_features(acked_ & half.vhost->features() & kVhostNetFeatures); !set)
      return set;
    if (auto set = half.vhost->set_memory(half.ring->context.memory); !set) return set;
  }
  if (auto set = half.vhost->set_up_ring(index % 2U, *half.ring); !set) return set;
  if (!run(index)) return fail(Errc::io, "vhost-net refuses the tap device");
  return {};
}

bool VhostNet::run(size_t index) {
  const Half& half = halves_[index];
  if (!set_backend(half.vhost->fd(), static_cast<unsigned>(index % 2U), half.tap)) return false;
  half.ring->context.kick.signal();  // a kick from before may have been seen by nobody
  return true;
}

// Once its interface has gone, vhost looks at a tap device's queue no more, whatever it is attached to later.
void VhostNet::link_is_up() {
  const std::scoped_lock lock(mutex_);
  for (size_t i = 0; i < halves_.size(); ++i) {
    if (halves_[i].ring == nullptr) continue;
    set_backend(halves_[i].vhost->fd(), static_cast<unsigned>(i % 2U), -1);
    run(i);
  }
}

std::optional<Virtqueue> VhostNet::stop_queue(uint16_t index) {
  const std::scoped_lock lock(mutex_);
  if (index >= halves_.size() || halves_[index].ring == nullptr) return std::nullopt;
  const Half& half = halves_[index];
  // Waits until the kernel is done with the ring, and with what it still sends of it.
  set_backend(half.vhost->fd(), index % 2U, -1);
  const std::unique_ptr<RemoteRing> ring = std::exchange(halves_[index].ring, nullptr);
  if (const auto base = half.vhost->ring_base(index % 2U)) {
    ring->queue.taken_back(*base);
  } else {
    ring->queue.taken_back_in_order();
  }
  return std::move(ring->queue);
}

}  // namespace minivmm
