// A virtqueue on its own thread: what most devices want. Kicks are switched off while the queue is looked at,
// and each batch of completions is published at once and interrupts once. Before it sleeps it looks for more
// for a while, where that has paid lately (docs/virtqueue.md).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "virtio/interrupt_hold.h"
#include "virtio/virtio_device.h"
#include "vmm/core/poll_window.h"
#include "vmm/core/queue_worker.h"

namespace minivmm {

class QueueRunner {
 public:
  // What a device does on the queue's thread. Nothing of it may throw.
  struct Hooks {
    // Pops and completes until the queue is empty, or `stop` asks to leave off; or leaves off on its own, for
    // the guest to see what is done, and is called again. An error (pop()'s) means that the queue is broken.
    // `which` as QueueWorker::Work's.
    std::function<Result<void>(Virtqueue& queue, unsigned which, const StopFlag& stop)> drain;
    // Waits until nothing is in flight any more: completed, or given back. Called last, with a stop
    // requested, or when the queue broke. None: drain leaves nothing in flight.
    std::function<void(Virtqueue& queue, const StopFlag& stop)> settle = {};
    // Whether drain has something to do besides the queue; quick, because it is asked again and again. None:
    // it never has.
    std::function<bool()> ready = {};
    // Whether what the last drain began and ended took so little time that the guest may be told of it
    // together with what is there to be done now. None: it is told of each drain at once.
    std::function<bool()> brief = {};
  };

  // Errors as QueueWorker::start(). `extra` outlives the runner.
  static Result<std::unique_ptr<QueueRunner>> start(const std::string& thread_name, Virtqueue&& queue,
                                                    QueueContext context, std::span<const int> extra,
                                                    Hooks hooks);
  QueueRunner(const QueueRunner&) = delete;
  QueueRunner& operator=(const QueueRunner&) = delete;

  Virtqueue stop();  // once; the drain runs no more

 private:
  QueueRunner(Virtqueue&& queue, QueueContext context, Hooks hooks)
      : queue_(std::move(queue)), context_(context), hooks_(std::move(hooks)) {}
  void work(unsigned which, const StopFlag& stop);
  bool work_comes(const StopFlag& stop);
  bool work_is_there() const;
  bool held_back(const StopFlag& stop);
  void settle(const StopFlag& stop);
  void publish();

  Virtqueue queue_;
  QueueContext context_;
  Hooks hooks_;
  PollWindow poll_window_;
  InterruptHold hold_;
  unsigned rounds_held_ = 0;
  bool broken_ = false;                  // the worker's
  std::unique_ptr<QueueWorker> worker_;  // last: gone before what it uses
};

}  // namespace minivmm
