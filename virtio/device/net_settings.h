// What the driver has settled about receiving: written where its commands are carried out, read by the
// workers, which look for changes once a batch and with each frame.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "virtio/device/net_rx_filter.h"
#include "virtio/device/net_spec.h"

namespace minivmm {

struct NetSettings {
  net::RxFilter filter;
  NetOffloads gives = 0;  // what frames for the guest may ask of it
};

class NetSettingsBoard {
 public:
  void post(const NetSettings& settings) {
    const std::scoped_lock lock(mutex_);
    settings_ = settings;
    generation_.fetch_add(1, std::memory_order_release);  // pairs with the acquire in read()
  }
  // Copies to `mine` if anything was posted since generation `seen`, which it moves on; 0 has seen nothing.
  void read(uint64_t& seen, NetSettings& mine) const {
    if (generation_.load(std::memory_order_acquire) == seen) return;
    const std::scoped_lock lock(mutex_);
    seen = generation_.load(std::memory_order_relaxed);
    mine = settings_;
  }

 private:
  mutable std::mutex mutex_;
  NetSettings settings_;
  std::atomic<uint64_t> generation_{1};
};

}  // namespace minivmm
