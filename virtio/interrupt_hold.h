// How long the ends of requests wait for each other, so that one interrupt tells of several.
//
// A device that is quicker than its guest ends each request before the guest has sent the next one, and would
// interrupt it for every single one. But a guest that waits for its only request must hear of its end at
// once. Which of the two it is shows only when it is tried: now and then the end is held back for a moment,
// and if another request comes meanwhile, the guest has more than one in flight. As many as came before
// nothing more did are then held together, and told without waiting once there are so many.
#pragma once

#include <algorithm>
#include <chrono>

#include "vmm/core/poll_window.h"

namespace minivmm {

class InterruptHold {
 public:
  using Clock = std::chrono::steady_clock;
  using Duration = std::chrono::nanoseconds;
  using Now = Clock::time_point (*)();
  static constexpr unsigned kMost = 16;  // ends that one interrupt tells of, at most, when waited for
  static constexpr Duration kLongest = std::chrono::microseconds(200);
  static constexpr unsigned kFirstTry = 32;   // requests between two tries; doubled by each that is in vain,
  static constexpr unsigned kLastTry = 4096;  // up to this

  // `cpus`: that the thread may run on; with one nothing is held, for the guest could not go on meanwhile.
  explicit InterruptHold(unsigned cpus = PollWindow::usable_cpus(), Now now = Clock::now)
      : now_is_(now), usable_(cpus > 1) {}

  unsigned depth() const { return depth_; }

  // `ended` requests have ended that the guest has not been told of, and nothing is to be done now. Whether
  // something more came, for which they are to wait; otherwise the guest is to be told. `more` is asked again
  // and again.
  template <class More>
  bool wait(unsigned ended, More more) {
    if (!usable_ || ended == 0 || ended >= kMost) return false;
    const bool trying = ended >= depth_;
    if (trying && until_try_ > 0) {
      --until_try_;
      return false;
    }
    const Clock::time_point began = now_is_();
    const Duration limit = trying && depth_ == 1 ? kLongest : std::min(kLongest, 3 * gap_);
    for (;;) {
      const bool came = more();
      const Duration waited = now_is_() - began;
      if (came) {
        gap_ = (3 * gap_ + waited) / 4;
        if (trying) {
          depth_ = ended + 1;
          between_tries_ = kFirstTry;  // and once more at the next end
        }
        return true;
      }
      if (waited >= limit) break;
      PollWindow::pause();
    }
    depth_ = ended;
    until_try_ = between_tries_;
    between_tries_ = std::min(2 * between_tries_, kLastTry);
    return false;
  }

 private:
  Now now_is_;
  bool usable_;
  unsigned depth_ = 1;  // how many the guest seems to have in flight
  unsigned until_try_ = kFirstTry;
  unsigned between_tries_ = kFirstTry;
  Duration gap_ = kLongest / 3;  // between one request's end and the next one's coming, smoothed
};

}  // namespace minivmm
