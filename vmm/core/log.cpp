#include "vmm/core/log.h"

#include <fmt/format.h>

#include <chrono>
#include <string>
#include <utility>

namespace minivmm {

namespace {
constexpr unsigned kFaultLinesPerSecond = 10;
constexpr int64_t kSecondNs = 1'000'000'000;
}  // namespace

Log::Log(LogLevel threshold, Sink sink) : threshold_(threshold), sink_(std::move(sink)) {}

void Log::write(LogLevel level, std::string_view line) {
  if (!enabled(level)) return;
  const std::scoped_lock lock(mutex_);
  sink_(level, line);
}

void Log::guest_fault(std::string_view device, std::string_view what) {
  if (!enabled(LogLevel::warn)) return;
  const int64_t now = std::chrono::steady_clock::now().time_since_epoch().count();
  const std::scoped_lock lock(mutex_);
  if (now - window_start_ns_ >= kSecondNs) {
    if (suppressed_ != 0)
      sink_(LogLevel::warn, fmt::format("{} more lines on guest faults left out", suppressed_));
    window_start_ns_ = now;
    in_window_ = 0;
    suppressed_ = 0;
  }
  if (in_window_ == kFaultLinesPerSecond) {
    ++suppressed_;
    return;
  }
  ++in_window_;
  sink_(LogLevel::warn,
        fmt::format("{}: the guest did something its specification forbids: {}", device, what));
}

}  // namespace minivmm
