// One member of a segment as another one sees it: a connection, and how long the others may be kept waiting
// for it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "vmm/core/fd.h"

namespace minivmm {

// A full peer holds up the sender's queue, and so all others that this sender talks to. It has credit to do
// so: it spends it by the time it is waited for, and earns it back by the frames it takes.
class Patience {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kMost{20};
  static constexpr std::chrono::milliseconds kEarned{2};  // by a frame
  // A peer without credit loses frames; whether it has room again is looked at this often.
  static constexpr std::chrono::milliseconds kRetry{1};

  // Whether it is to be tried at all now; otherwise the frame is lost for it.
  bool worth_trying(Clock::time_point now) const { return !lost_ || now >= retry_; }

  void took_frame(Clock::time_point now) {
    if (waiting_) spend(now);
    waiting_ = false;
    lost_ = false;
    credit_ = std::min<Clock::duration>(credit_ + kEarned, kMost);
  }

  // It had no room. True: wait for it, until `deadline()` at most. False: the frame is lost.
  bool had_no_room(Clock::time_point now) {
    if (lost_) {
      retry_ = now + kRetry;
      return false;
    }
    if (!waiting_) {
      waiting_ = true;
      since_ = now;
    }
    if (now - since_ < credit_) return true;
    credit_ = {};
    waiting_ = false;
    lost_ = true;
    retry_ = now + kRetry;
    return false;
  }

  bool waiting() const { return waiting_; }
  Clock::time_point deadline() const { return since_ + credit_; }

 private:
  void spend(Clock::time_point now) { credit_ = std::max(Clock::duration{}, credit_ - (now - since_)); }

  Clock::duration credit_ = kMost;
  bool waiting_ = false;
  bool lost_ = false;  // its credit is used up, and it has taken nothing since
  Clock::time_point since_{};
  Clock::time_point retry_{};
};

struct Peer {
  uint32_t id;  // never used again
  UniqueFd fd;
  bool readable = true;       // may have something
  bool watches_room = false;  // EPOLLOUT is asked for
  Patience patience = {};
};

}  // namespace minivmm
