// Tasks that wait for time to pass together: one of them sleeps, and wakes the others.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>

#include "devices/block/io_engine.h"
#include "devices/block/io_sync.h"
#include "vmm/core/fd.h"

namespace minivmm {

class IoTicker {
 public:
  // The longest sleep: so late may a waiter notice that its queue is to stop.
  static constexpr std::chrono::milliseconds kSlice{50};

  IoTicker();  // throws HostError when the process is out of descriptors
  // Until the one who sleeps has slept: at most kSlice, and `wanted` if it is this one.
  Task<void> wait(IoEngine& engine, std::chrono::nanoseconds wanted);

 private:
  UniqueFd timer_;
  std::mutex mutex_;
  std::shared_ptr<IoEvent>
      tick_;  // guarded by mutex_: what ends the sleep that is going on; null: nobody sleeps
};

}  // namespace minivmm
