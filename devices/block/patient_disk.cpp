#include "devices/block/patient_disk.h"

#include <fmt/format.h>

#include <chrono>

namespace minivmm {

Task<Result<void>> PatientDisk::run(IoEngine& engine, BlockRequest request) {
  auto result = co_await below().run(engine, request);
  if (result || result.error().code != Errc::no_space) co_return result;
  {
    const std::scoped_lock lock(mutex_);
    if (stuck_++ == 0) stalls_.stalled(fmt::format("{}: the host has no space left for it", what_));
  }
  auto next = std::chrono::steady_clock::now() + retry_;
  for (;;) {
    if (request.stop != nullptr && request.stop->requested()) {
      result = fail(Errc::closed, "stopped");
      break;
    }
    const auto now = std::chrono::steady_clock::now();
    if (now < next) {
      co_await ticker_.wait(engine, next - now);
      continue;
    }
    result = co_await below().run(engine, request);
    if (result || result.error().code != Errc::no_space) break;
    next = std::chrono::steady_clock::now() + retry_;
  }
  const std::scoped_lock lock(mutex_);
  if (--stuck_ == 0) stalls_.going_on();
  co_return result;
}

}  // namespace minivmm
