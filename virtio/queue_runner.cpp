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
  do {
    queue_.disable_kicks();
    const auto drained = hooks_.drain(queue_, which, stop);
    if (drained && !stop.requested() && held_back(stop)) continue;
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

// Whether the guest is to be told of what has ended together with what comes next. A guest with many requests
// in flight is so interrupted less, and one that waits for its only request not a moment later.
bool QueueRunner::held_back(const StopFlag& stop) {
  if (!hooks_.brief) return false;
  if (work_is_there()) {
    const bool brief = queue_.available() ? hooks_.brief() : true;  // ends are quick to take
    if (brief && ++rounds_held_ < kMostHeld) return true;
    return false;
  }
  return hooks_.brief() &&
         hold_.wait(queue_.unpublished(), [&] { return work_is_there() || stop.requested(); });
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
  rounds_held_ = 0;
  if (queue_.publish()) context_.signals.used(context_.index);
}

}  // namespace minivmm
