// Token buckets for requests (or packets) and bytes: so much per second in the long run, and a burst at once
// after a rest.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>

namespace minivmm {

class RateLimiter {
 public:
  using Clock = std::chrono::steady_clock;
  struct Bucket {
    uint64_t per_second = 0;  // 0: no limit
    uint64_t burst = 0;       // what a full bucket holds; 0: a tenth of a second's worth, at least 1
  };

  // Both buckets are full at first.
  RateLimiter(const Bucket& requests, const Bucket& bytes);

  bool limits() const { return requests_.per_second != 0 || bytes_.per_second != 0; }
  // Zero: one request of so many bytes may begin, and is charged for. More: nothing is charged; ask again
  // after that long. A request larger than the burst begins when its bucket is full, and is paid off
  // afterwards. Thread-safe.
  std::chrono::nanoseconds take(uint64_t bytes, Clock::time_point now = Clock::now());
  // For what was done already, and may make a debt: one request of so many bytes is charged for.
  void charge(uint64_t bytes, Clock::time_point now = Clock::now());
  // What take() would say, and nothing is charged.
  std::chrono::nanoseconds wait(uint64_t bytes, Clock::time_point now = Clock::now());

 private:
  struct State {
    uint64_t per_second;
    double burst;
    double tokens;  // below zero: a debt
    // How long until `wanted`, or a full bucket, is there.
    std::chrono::nanoseconds missing(double wanted) const;
    void refill(double seconds);
  };
  static State start(const Bucket& bucket);
  // All with mutex_ held.
  std::chrono::nanoseconds missing(uint64_t bytes, Clock::time_point now);
  void spend(uint64_t bytes);

  std::mutex mutex_;
  State requests_;
  State bytes_;
  Clock::time_point last_{};  // when the buckets were filled up; epoch: not yet
};

}  // namespace minivmm
