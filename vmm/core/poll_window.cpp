#include "vmm/core/poll_window.h"

#include <sched.h>

namespace minivmm {

unsigned PollWindow::usable_cpus() {
  cpu_set_t cpus;
  if (::sched_getaffinity(0, sizeof cpus, &cpus) != 0) return 2;  // more than 1024 of them
  return static_cast<unsigned>(CPU_COUNT(&cpus));
}

void PollWindow::woken() {
  if (!std::exchange(slept_, false)) return;
  const Clock::time_point now = now_is_();
  const Duration waited = now - began_;
  if (waited > max_) {
    window_ = Duration{0};
  } else if (waited > window_ && now >= hold_off_) {
    window_ = std::min(2 * waited, max_);  // it would have paid
  }
}

void PollWindow::preempted() {
  window_ = Duration{0};
  hold_off_ = now_ + kHoldOff;
}

void PollWindow::pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace minivmm
