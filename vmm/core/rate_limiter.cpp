#include "vmm/core/rate_limiter.h"

#include <algorithm>
#include <cmath>

namespace minivmm {

RateLimiter::RateLimiter(const Bucket& requests, const Bucket& bytes)
    : requests_(start(requests)), bytes_(start(bytes)) {}

RateLimiter::State RateLimiter::start(const Bucket& bucket) {
  const double tenth = std::max(1.0, static_cast<double>(bucket.per_second) / 10);
  const double burst = bucket.burst == 0 ? tenth : static_cast<double>(bucket.burst);
  return {bucket.per_second, burst, burst};
}

std::chrono::nanoseconds RateLimiter::State::missing(double wanted) const {
  if (per_second == 0) return {};
  const double lack = std::min(wanted, burst) - tokens;
  if (lack <= 0) return {};
  return std::chrono::nanoseconds(
      static_cast<int64_t>(std::ceil(std::min(lack / static_cast<double>(per_second), 1e9) * 1e9)));
}

void RateLimiter::State::refill(double seconds) {
  tokens = std::min(burst, tokens + static_cast<double>(per_second) * seconds);
}

std::chrono::nanoseconds RateLimiter::missing(uint64_t bytes, Clock::time_point now) {
  if (last_ != Clock::time_point{} && now > last_) {
    const double seconds = std::chrono::duration<double>(now - last_).count();
    requests_.refill(seconds);
    bytes_.refill(seconds);
  }
  last_ = std::max(last_, now);
  return std::max(requests_.missing(1), bytes_.missing(static_cast<double>(bytes)));
}

std::chrono::nanoseconds RateLimiter::wait(uint64_t bytes, Clock::time_point now) {
  const std::scoped_lock lock(mutex_);
  return missing(bytes, now);
}

std::chrono::nanoseconds RateLimiter::take(uint64_t bytes, Clock::time_point now) {
  const std::scoped_lock lock(mutex_);
  const auto wait = missing(bytes, now);
  if (wait.count() > 0) return wait;
  spend(bytes);
  return {};
}

void RateLimiter::charge(uint64_t bytes, Clock::time_point now) {
  const std::scoped_lock lock(mutex_);
  missing(bytes, now);
  spend(bytes);
}

void RateLimiter::spend(uint64_t bytes) {
  requests_.tokens -= 1;
  bytes_.tokens -= static_cast<double>(bytes);
}

}  // namespace minivmm
