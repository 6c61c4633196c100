// A virtqueue of a device that has one DeviceThread for all of them. Every call with the thread's lock held.
#pragma once

#include <optional>

#include "virtio/device_thread.h"
#include "virtio/virtio_device.h"

namespace minivmm {

class ServedQueue {
 public:
  // `tag` is what the thread's ready() hook gets for this queue's kicks, which it need not look at: work() is
  // called after it.
  ServedQueue(DeviceThread& thread, uint64_t tag) : thread_(&thread), tag_(tag) {}

  // VirtioDevice::start_queue() and stop_queue(); nothing may be in flight when it stops.
  Result<void> start(Virtqueue&& queue, const QueueContext& context);
  std::optional<Virtqueue> stop();

  bool running() const { return queue_.has_value(); }
  bool usable() const { return running() && !broken_; }
  GuestMemory& memory() { return context_->memory; }  // while it runs

  // The next request. None: there is none, it does not run, or it is broken, of which the guest has been
  // told.
  std::optional<Chain> pop();
  void complete(Chain&& chain, uint32_t written) { queue_->complete(std::move(chain), written); }
  void give_back(Chain&& chain) { queue_->give_back(std::move(chain)); }
  // Shows the guest what was completed, and interrupts it if it wants that.
  void publish();

  void busy();                // no kicks needed for now
  [[nodiscard]] bool idle();  // kicks again; true: something came meanwhile, look again

 private:
  DeviceThread* thread_;
  uint64_t tag_;
  std::optional<Virtqueue> queue_;
  std::optional<QueueContext> context_;
  bool broken_ = false;
};

}  // namespace minivmm
