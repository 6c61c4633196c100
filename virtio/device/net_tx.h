// From the guest's transmit queue to the back end (virtio 1.2, 5.1.6.2), without a copy: the back end reads
// guest memory. Only the header is copied, and checked, first. On the pair's worker.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "devices/net/net_backend.h"
#include "virtio/device/net_spec.h"
#include "virtio/virtio_device.h"
#include "vmm/core/queue_worker.h"

namespace minivmm {

class NetTx {
 public:
  struct Settings {
    NetOffloads takes;  // what the guest may ask of us
    std::string name;   // for the log
  };
  // `wire` and what is in the context outlive it.
  NetTx(NetQueue& wire, Settings settings, Virtqueue&& queue, QueueContext context)
      : wire_(wire), settings_(std::move(settings)), queue_(std::move(queue)), context_(context) {}

  // Sends what the guest has, a batch at most. True: there may be more. An error (pop()'s) means that the
  // queue is broken.
  Result<bool> drain(const StopFlag& stop);
  // Gives back the frame that waits for room.
  void settle();

  // The back end has no room, and will say so when it has.
  bool blocked() const { return waiting_.has_value(); }
  // Bytes of the frames that the last drain() has taken.
  uint64_t drained_bytes() const { return drained_bytes_; }
  Virtqueue& queue() { return queue_; }
  const QueueContext& context() const { return context_; }

 private:
  bool prepare(const Chain& chain);
  bool send();

  NetQueue& wire_;
  Settings settings_;
  Virtqueue queue_;
  QueueContext context_;
  net::Header header_{};  // our copy
  IoVec pieces_;          // of the frame in hand: the header's, then guest memory
  uint64_t drained_bytes_ = 0;
  std::optional<Chain> waiting_;  // prepared, and refused for want of room
};

}  // namespace minivmm
