// One machine's log. Passed down, never global: many machines live in one process.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string_view>

namespace minivmm {

enum class LogLevel : uint8_t { error, warn, info, debug };

class Log {
 public:
  using Sink = std::function<void(LogLevel, std::string_view line)>;  // called under the log's mutex

  Log() = default;  // discards everything: tests and callers that do not care
  Log(LogLevel threshold, Sink sink);

  bool enabled(LogLevel level) const { return sink_ && level <= threshold_; }
  void write(LogLevel level, std::string_view line);

  // For what a guest can cause at will: ten lines a second at most, the rest is counted and the count is
  // told.
  void guest_fault(std::string_view device, std::string_view what);

 private:
  LogLevel threshold_ = LogLevel::error;
  Sink sink_;
  std::mutex mutex_;
  int64_t window_start_ns_ = 0;
  unsigned in_window_ = 0;
  unsigned suppressed_ = 0;
};

}  // namespace minivmm
