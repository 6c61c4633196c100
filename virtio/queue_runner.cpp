#include "virtio/queue_runner.h"

#include <utility>

namespace minivmm {

namespace {
constexpr unsigned kMostHeld = 4;  // drains that the guest is told of together
}  // namespace

Result<std::unique_ptr<QueueRunner>> QueueRunner::start(const std::string& thread_name, Virtqueue&& queue,
                                                        QueueContext context, std::span<const int> extra,
                                                        Hooks hooks) {
  std::unique_ptr<QueueRunner> runner(new QueueRunner(std::move(queue), context, std::move(hooks)));
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
  poll_window_.woken();
  unsigned held = 0;
  do {
    queue_.disable_kicks();
    const auto drained = hooks_.drain(queue_, which, stop);
    if (drained && !stop.requested() && ++held < kMostHeld && may_hold()) continue;
    held = 0;
    publish();
    if (!drained) {
      broken_ = true;
      settle(stop);  // nobody looks at what ends from now on
      context_.signals.needs_reset();
      return;
    }
  } while (!stop.requested() && (work_comes(stop) || queue_.enable_kicks()));
  publish();  // what was held when a stop came
}

// One interrupt tells of what is done and of what can be done at once: a guest with many requests in flight
// is interrupted less, and one that waits for its only request not a moment later.
bool QueueRunner::may_hold() const {
  if (!hooks_.brief) return false;
  return queue_.available() ? hooks_.brief() : hooks_.ready && hooks_.ready();
}

bool QueueRunner::work_is_there() const {
  return queue_.available() || (hooks_.ready && hooks_.ready());
}

// Before sleeping, with kicks still switched off: neither the guest's kick nor our wake-up is to be paid for
// what comes within the window.
bool QueueRunner::work_comes(const StopFlag& stop) {
  return poll_window_.wait([&] { return work_is_there() || stop.requested(); }) && !stop.requested();
}

void QueueRunner::settle(const StopFlag& stop) {
  if (!hooks_.settle) return;
  hooks_.settle(queue_, stop);
  publish();
}

void QueueRunner::publish() {
  if (queue_.publish()) context_.signals.used(context_.index);
}

}  // namespace minivmm
