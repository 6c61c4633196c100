#include "virtio/queue_runner.h"

#include <utility>

namespace minivmm {

Result<std::unique_ptr<QueueRunner>> QueueRunner::start(const std::string& thread_name, Virtqueue&& queue,
                                                        QueueContext context, std::span<const int> extra,
                                                        Drain drain, Settle settle) {
  std::unique_ptr<QueueRunner> runner(
      new QueueRunner(std::move(queue), context, std::move(drain), std::move(settle)));
  auto worker = QueueWorker::start(
      thread_name, context.kick, extra,
      [r = runner.get()](unsigned which, const StopFlag& stop) { r->work(which, stop); },
      [r = runner.get()](const StopFlag& stop) { r->settle(stop); });
  if (!worker) return std::unexpected(worker.error());
  runner->worker_ = std::move(*worker);
  return runner;
}

Virtqueue QueueRunner::stop() {
  worker_->stop();
  return std::move(queue_);
}

void QueueRunner::work(unsigned which, const StopFlag& stop) {
  if (broken_) return;
  do {
    queue_.disable_kicks();
    const auto drained = drain_(queue_, which, stop);
    publish();
    if (!drained) {
      broken_ = true;
      settle(stop);  // nobody looks at what ends from now on
      context_.signals.needs_reset();
      return;
    }
  } while (!stop.requested() && queue_.enable_kicks());
}

void QueueRunner::settle(const StopFlag& stop) {
  if (!settle_) return;
  settle_(queue_, stop);
  publish();
}

void QueueRunner::publish() {
  if (queue_.publish()) context_.signals.used(context_.index);
}

}  // namespace minivmm
