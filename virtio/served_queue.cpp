#include "virtio/served_queue.h"

#include <utility>

namespace minivmm {

Result<void> ServedQueue::start(Virtqueue&& queue, const QueueContext& context) {
  MV_CHECK(!queue_);
  if (auto started = thread_->start(); !started) return started;
  // Edge-triggered and never read, as QueueWorker does: one system call a kick.
  if (auto watched = thread_->watch(context.kick.fd(), EPOLLIN | EPOLLET, tag_); !watched) return watched;
  queue_.emplace(std::move(queue));
  context_.emplace(context);
  broken_ = false;
  thread_->wake();  // for what came before
  return {};
}

std::optional<Virtqueue> ServedQueue::stop() {
  if (!queue_) return std::nullopt;
  MV_CHECK(queue_->in_flight() == 0);
  publish();
  thread_->forget(context_->kick.fd());
  std::optional<Virtqueue> out(std::move(queue_));
  queue_.reset();
  context_.reset();
  return out;
}

std::optional<Chain> ServedQueue::pop() {
  if (!usable()) return std::nullopt;
  auto popped = queue_->pop();
  if (popped) return std::move(*popped);
  broken_ = true;
  publish();
  context_->signals.needs_reset();
  return std::nullopt;
}

void ServedQueue::publish() {
  if (queue_ && queue_->publish()) context_->signals.used(context_->index);
}

void ServedQueue::busy() {
  if (usable()) queue_->disable_kicks();
}

bool ServedQueue::idle() {
  return usable() && queue_->enable_kicks();
}

}  // namespace minivmm
