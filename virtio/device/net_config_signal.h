// Tells the driver that the configuration has changed: at once while the device runs, else when it next does.
#pragma once

#include <mutex>
#include <utility>

#include "virtio/virtio_device.h"

namespace minivmm {

class NetConfigSignal {
 public:
  // On any thread, back ends' included: takes only a lock that is held for no wait.
  void changed() {
    const std::scoped_lock lock(mutex_);
    if (signals_ != nullptr) {
      signals_->config_changed();
    } else {
      pending_ = true;
    }
  }
  void started(VirtioSignals& signals) {
    const std::scoped_lock lock(mutex_);
    signals_ = &signals;
    if (std::exchange(pending_, false)) signals.config_changed();
  }
  void stopped() {
    const std::scoped_lock lock(mutex_);
    signals_ = nullptr;
  }
  void forget() {
    const std::scoped_lock lock(mutex_);
    pending_ = false;
  }

 private:
  std::mutex mutex_;
  VirtioSignals* signals_ = nullptr;  // null: no queue runs
  bool pending_ = false;
};

}  // namespace minivmm
