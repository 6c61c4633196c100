#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace minivmm {

namespace {
constexpr auto kQuietFirst = std::chrono::seconds(2);
constexpr auto kInterval = std::chrono::milliseconds(200);
constexpr unsigned kWidth = 40;
}  // namespace

Progress::Progress(std::string what, uint64_t total)
    : what_(std::move(what)), total_(total), wanted_(total != 0 && ::isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  if (shown_) fmt::print(stderr, "\r\x1b[K");
}

void Progress::update(uint64_t done) {
  const auto now = Clock::now();
  if (!wanted_ || now - begin_ < kQuietFirst || now - last_ < kInterval) return;
  last_ = now;
  shown_ = true;
  const double part = std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
  const std::chrono::duration<double> passed = now - begin_;
  const auto full = static_cast<unsigned>(part * kWidth);
  const double left = part > 0 ? passed.count() * (1 - part) / part : 0;
  fmt::print(stderr, "\r{} [{}{}] {:3.0f} %, {:.0f} s left\x1b[K", what_, std::string(full, '='),
             std::string(kWidth - full, ' '), part * 100, left);
  std::fflush(stderr);
}

}  // namespace minivmm
