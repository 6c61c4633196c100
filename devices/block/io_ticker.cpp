#include "devices/block/io_ticker.h"

#include <sys/timerfd.h>

#include <algorithm>

namespace minivmm {

// Blocking: the engine's read waits in the kernel, or in one thread of its pool.
IoTicker::IoTicker() : timer_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)) {
  if (!timer_) throw_errno("make a timer");
}

Task<void> IoTicker::wait(IoEngine& engine, std::chrono::nanoseconds wanted) {
  using std::chrono::nanoseconds;
  std::shared_ptr<IoEvent> tick;
  bool sleeper = false;
  {
    const std::scoped_lock lock(mutex_);
    sleeper = tick_ == nullptr;
    if (sleeper) tick_ = std::make_shared<IoEvent>();
    tick = tick_;
  }
  if (!sleeper) {
    co_await tick->wait(engine);
    co_return;
  }
  itimerspec time{};
  time.it_value.tv_nsec = std::clamp<nanoseconds>(wanted, nanoseconds(1), kSlice).count();
  if (::timerfd_settime(timer_.get(), 0, &time, nullptr) == 0) {
    uint64_t expired = 0;
    const iovec piece{&expired, sizeof expired};
    co_await engine.read(timer_.get(), 0, {&piece, 1});
  }
  {
    const std::scoped_lock lock(mutex_);
    tick_ = nullptr;
  }
  tick->set();
}

}  // namespace minivmm
