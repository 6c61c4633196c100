// A receive and a transmit queue with one worker for both. Either may be there alone: queues are started and
// stopped one by one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "virtio/device/net_rx.h"
#include "virtio/device/net_tx.h"
#include "virtio/device/net_tx_hold.h"
#include "vmm/core/fd.h"
#include "vmm/core/poll_window.h"
#include "vmm/core/queue_worker.h"

namespace minivmm {

class NetPair {
 public:
  // `thread_name`: 15 characters are kept. `wire` and `board` outlive it.
  NetPair(NetQueue& wire, const NetSettingsBoard& board, std::string thread_name)
      : wire_(wire), board_(board), thread_name_(std::move(thread_name)) {}
  ~NetPair();
  NetPair(const NetPair&) = delete;
  NetPair& operator=(const NetPair&) = delete;

  // The worker is stopped, and started again with one more. Errors as QueueWorker::start(): the new queue is
  // then dropped, the other one does not run.
  Result<void> start_rx(NetRx::Settings settings, Virtqueue&& queue, QueueContext context);
  Result<void> start_tx(NetTx::Settings settings, Virtqueue&& queue, QueueContext context);
  // Empty if it does not run. The other one goes on.
  std::optional<Virtqueue> stop_rx();
  std::optional<Virtqueue> stop_tx();

 private:
  Result<void> start_worker();
  void stop_worker();
  void work(bool timer, const StopFlag& stop);
  Result<bool> drain(const StopFlag& stop);
  bool work_comes(const StopFlag& stop);
  bool kicks_missed();
  void tell(bool late, bool stopping);
  static bool interrupt_if_wanted(NetTx& tx);
  void arm_timer();
  bool timer_went_off();
  void settle();
  void broke();

  NetQueue& wire_;
  const NetSettingsBoard& board_;
  std::string thread_name_;
  std::optional<NetRx> rx_;
  std::optional<NetTx> tx_;
  PollWindow poll_window_;
  NetTxHold tx_hold_;
  UniqueFd timer_;  // goes off when the guest has to be asked about what is held; none: nothing is held
  bool timer_armed_ = false;
  uint64_t kept_count_ = 0;  // how often something was held
  uint64_t kept_when_armed_ = 0;
  bool broken_ = false;                  // the worker's
  std::unique_ptr<QueueWorker> worker_;  // last: gone before what it uses
};

}  // namespace minivmm
