// A progress bar on stderr, if that is a terminal, for what takes longer than two seconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace minivmm {

class Progress {
 public:
  // `what`: "converting"; `total` in bytes.
  Progress(std::string what, uint64_t total);
  ~Progress();  // the bar goes away
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(uint64_t done);

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  uint64_t total_;
  bool wanted_;
  bool shown_ = false;
  Clock::time_point begin_ = Clock::now();
  Clock::time_point last_{};
};

}  // namespace minivmm
