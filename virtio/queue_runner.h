// A virtqueue on its own thread: what most devices want. Kicks are switched off while the queue is looked at,
// and each batch of completions is published at once and interrupts once.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "virtio/virtio_device.h"
#include "vmm/core/queue_worker.h"

namespace minivmm {

class QueueRunner {
 public:
  // Pops and completes until the queue is empty, or `stop` asks to leave off. An error (pop()'s) means that
  // the queue is broken. `which` as QueueWorker::Work's. Must not throw.
  using Drain = std::function<Result<void>(Virtqueue& queue, unsigned which, const StopFlag& stop)>;

  // Waits until nothing is in flight any more: completed, or given back. Called last, with a stop requested,
  // or when the queue broke. Must not throw.
  using Settle = std::function<void(Virtqueue& queue, const StopFlag& stop)>;

  // Errors as QueueWorker::start(). `extra` outlives the runner. No `settle`: drain leaves nothing in flight.
  static Result<std::unique_ptr<QueueRunner>> start(const std::string& thread_name, Virtqueue&& queue,
                                                    QueueContext context, std::span<const int> extra,
                                                    Drain drain, Settle settle = {});
  QueueRunner(const QueueRunner&) = delete;
  QueueRunner& operator=(const QueueRunner&) = delete;

  Virtqueue stop();  // once; the drain runs no more

 private:
  QueueRunner(Virtqueue&& queue, QueueContext context, Drain drain, Settle settle)
      : queue_(std::move(queue)), context_(context), drain_(std::move(drain)), settle_(std::move(settle)) {}
  void work(unsigned which, const StopFlag& stop);
  void settle(const StopFlag& stop);
  void publish();

  Virtqueue queue_;
  QueueContext context_;
  Drain drain_;
  Settle settle_;
  bool broken_ = false;                  // the worker's
  std::unique_ptr<QueueWorker> worker_;  // last: gone before what it uses
};

}  // namespace minivmm
