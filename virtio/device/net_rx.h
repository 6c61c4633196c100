// From the back end into the guest's receive buffers (virtio 1.2, 5.1.6.4), without a copy: the back end
// writes into guest memory. On the pair's worker.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/net/net_backend.h"
#include "virtio/device/net_settings.h"
#include "virtio/virtio_device.h"
#include "vmm/core/queue_worker.h"

namespace minivmm {

class NetRx {
 public:
  struct Settings {
    bool mergeable;    // MRG_RXBUF: one frame may take several buffers
    std::string name;  // for the log
  };
  // All references outlive it.
  NetRx(NetQueue& wire, const NetSettingsBoard& board, Settings settings, Virtqueue&& queue,
        QueueContext context);

  // Hands on what the back end has, a batch at most. True: there may be more. An error (pop()'s) means that
  // the queue is broken.
  Result<bool> drain(const StopFlag& stop);
  // Gives back the buffers that hold nothing.
  void settle();

  // There is a buffer for the next frame, if it is not too large.
  bool can_receive() const { return held() != 0 && spilled_ == 0 && !failing_; }
  // The guest's kicks are wanted: what it has made available may not hold the next frame.
  bool starved() const { return held_bytes_ < wanted() || spilled_ != 0; }
  Virtqueue& queue() { return queue_; }
  const QueueContext& context() const { return context_; }

 private:
  struct Held {
    Chain chain;
    size_t bytes;   // writable
    size_t pieces;  // of pieces_
  };

  size_t wanted() const;
  Result<void> gather();
  void hold(Chain&& chain);
  void prepare_front();
  Result<size_t> receive();
  void take(size_t size);
  void take_spilled();
  void hand_over(const net::Header& header, size_t size);
  void drop_front(size_t count);
  size_t held() const { return held_.size() - first_held_; }

  NetQueue& wire_;
  const NetSettingsBoard& board_;
  Settings settings_;
  Virtqueue queue_;
  QueueContext context_;
  NetSettings rules_;
  uint64_t rules_seen_ = 0;

  // Buffers taken from the ring for the next frames, from first_held_ on; what stands before is spent. Their
  // pieces lie one after the other in pieces_ from first_piece_ on, with room for the header's before them.
  std::vector<Held> held_;
  size_t first_held_ = 0;
  size_t held_bytes_ = 0;
  IoVec pieces_;
  size_t first_piece_ = 1;
  bool failing_ = false;         // nothing but errors came of the last batch
  bool front_prepared_ = false;  // the first buffer's pieces begin behind the header

  // Of the frame that is being received: looked at before the guest sees it.
  net::Header header_{};
  std::array<std::byte, net::kRxFilterLook> head_{};
  size_t head_size_ = 0;
  // The end of a mergeable frame that is larger than the buffers there were; it waits for more.
  std::unique_ptr<std::byte[]> spill_;
  size_t spilled_ = 0;     // bytes in there
  size_t spill_size_ = 0;  // of the whole frame, header included
};

}  // namespace minivmm
