// How long a thread looks for work before it sleeps: as long as that has paid lately. A wake-up costs more
// than a short wait; a long one is better slept through. The rule is that of KVM's halt polling.
#pragma once

#include <algorithm>
#include <chrono>
#include <utility>

namespace minivmm {

class PollWindow {
 public:
  using Clock = std::chrono::steady_clock;
  using Duration = std::chrono::nanoseconds;
  static constexpr Duration kMax = std::chrono::microseconds(200);
  // The thread was not run for so long while it looked: others want the CPU, and it keeps from looking then.
  static constexpr Duration kPreempted = std::chrono::microseconds(100);
  static constexpr Duration kHoldOff = std::chrono::milliseconds(20);

  using Now = Clock::time_point (*)();

  // `cpus`: that the thread may run on; with one it never looks, for who is waited for could not run.
  explicit PollWindow(unsigned cpus = usable_cpus(), Now now = Clock::now)
      : now_is_(now), max_(cpus > 1 ? kMax : Duration{0}) {}
  static unsigned usable_cpus();

  static void pause();  // between two looks

  Duration window() const { return window_; }

  // Calls `ready` until it is true, or the window is over; whether it was true. Always calls it once.
  template <class Ready>
  bool wait(Ready ready) {
    if (ready()) return true;
    began_ = now_ = now_is_();
    while (window_ > Duration{0} && now_ - began_ < window_) {
      for (int i = 0; i < 16; ++i) {
        pause();
        if (ready()) return true;
      }
      const auto before = std::exchange(now_, now_is_());
      if (now_ - before > kPreempted) preempted();
    }
    slept_ = true;
    return false;
  }

  // There is work; perhaps after a wait() that was in vain, and sleep.
  void woken();

 private:
  void preempted();

  Now now_is_;
  Duration max_;
  Duration window_{0};
  bool slept_ = false;
  Clock::time_point began_{};  // of the wait, its polling included
  Clock::time_point now_{};
  Clock::time_point hold_off_{};  // not before
};

}  // namespace minivmm
