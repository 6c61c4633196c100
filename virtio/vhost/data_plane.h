// Virtqueues that somebody outside this process works on: the kernel's vhost, or another program by
// vhost-user. The device and its configuration stay ours; the rings' kicks and interrupts pass us by.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "virtio/spec.h"
#include "virtio/virtio_device.h"

namespace minivmm {

// The transport's features that whoever works on a ring has to know as well.
inline constexpr uint64_t kVhostRingFeatures =
    virtio::kFeatureVersion1 | virtio::kFeatureEventIdx | virtio::kFeatureIndirectDesc;

// Thread-safe. What it writes to guest memory GuestMemory does not see: while pages are being tracked it has
// to keep a log of its own (VHOST_F_LOG_ALL), which nobody asks for yet.
class DataPlane {
 public:
  virtual ~DataPlane() = default;  // with no queue running

  // The device's and the ring's features that may be offered; the same all its life.
  virtual uint64_t features() const = 0;
  // What the driver accepted; with no queue running.
  virtual void ack_features(uint64_t features) = 0;

  // As VirtioDevice's. An error: the queue does not run, and the device needs a reset.
  virtual Result<void> start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) = 0;
  virtual std::optional<Virtqueue> stop_queue(uint16_t index) = 0;
  // What the other side has in the device's configuration space, on any thread. Errc::unsupported: it keeps
  // none of its own.
  virtual Result<void> read_config(uint32_t /*offset*/, std::span<std::byte> /*out*/) {
    return fail(Errc::unsupported, "its configuration is ours");
  }
  // The cable is plugged in again, maybe into something new. On any thread.
  virtual void link_is_up() {}
  // The first `count` queues are looked at, however many run.
  virtual Result<void> use_queues(uint16_t /*count*/) { return {}; }
};

// One queue while it is out there.
struct RemoteRing {
  Virtqueue queue;
  QueueContext context;
  uint16_t next_avail;  // where it goes on
  QueueCalls calls;

  // Routes `calls` to the guest. Errors as Virtqueue::hand_over_index() and VirtioSignals::set_calls().
  static Result<std::unique_ptr<RemoteRing>> create(Virtqueue&& queue, QueueContext context);
  RemoteRing(Virtqueue&& q, const QueueContext& c, uint16_t at)
      : queue(std::move(q)), context(c), next_avail(at) {}
  RemoteRing(const RemoteRing&) = delete;
  RemoteRing& operator=(const RemoteRing&) = delete;
  ~RemoteRing();  // no interrupt comes of it any more
};

}  // namespace minivmm
