// Whether a back end's cable is plugged in, and who wants to know of it.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <utility>

namespace minivmm {

class LinkState {
 public:
  explicit LinkState(bool up) : up_(up) {}

  bool up() const { return up_.load(std::memory_order_acquire); }

  // Any thread.
  void set(bool up) {
    if (up_.exchange(up, std::memory_order_acq_rel) == up) return;
    const std::scoped_lock lock(mutex_);
    if (changed_) changed_();
  }

  // As NetBackend::watch_link().
  void watch(std::function<void()> changed) {
    const std::scoped_lock lock(mutex_);
    changed_ = std::move(changed);
  }

 private:
  std::atomic<bool> up_;
  std::mutex mutex_;  // held while the watcher is called: watch() returns after that
  std::function<void()> changed_;
};

}  // namespace minivmm
