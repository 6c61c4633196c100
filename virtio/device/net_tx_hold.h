// Whether the guest is interrupted for frames it has sent at once, or only if it does not find them by
// itself.
//
// Who asks a question and waits for the answer is interrupted twice: because the question is under way, which
// it does not wait for, and for the answer, with which most drivers look for frames that were sent, too. So
// the end of a few short frames is shown, and whether an interrupt is wanted is asked later: before the next
// ones are shown, or after a moment. A driver that has found them by then wants none. Whether a driver does
// so shows only when it is tried.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace minivmm {

class NetTxHold {
 public:
  static constexpr std::chrono::milliseconds kLongest{5};
  // More at once, and a sender is at work that needs its buffers back.
  static constexpr unsigned kMostFrames = 4;
  static constexpr uint64_t kMostBytes = 4096;
  static constexpr unsigned kFirstTry = 32;   // batches between two tries; doubled by each that is in vain,
  static constexpr unsigned kLastTry = 4096;  // up to this

  bool holding() const { return holding_; }

  // So much has been shown, and nothing is held. Whether to ask later.
  bool keep(unsigned frames, uint64_t bytes) {
    if (frames == 0 || frames > kMostFrames || bytes > kMostBytes) return false;
    if (until_try_ > 0) {
      --until_try_;
      return false;
    }
    holding_ = true;
    return true;
  }
  // The driver was asked about what was held.
  void asked(bool wants_interrupt) {
    holding_ = false;
    if (!wants_interrupt) {
      between_tries_ = kFirstTry;
      return;
    }
    until_try_ = between_tries_;
    between_tries_ = std::min(2 * between_tries_, kLastTry);
  }

 private:
  bool holding_ = false;
  unsigned until_try_ = kFirstTry;
  unsigned between_tries_ = kFirstTry;
};

}  // namespace minivmm
