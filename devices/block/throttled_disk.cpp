#include "devices/block/throttled_disk.h"

#include <algorithm>

namespace minivmm {

Task<Result<void>> ThrottledDisk::run(IoEngine& engine, BlockRequest request) {
  if (request.op != BlockOp::flush) {
    auto wait = take(&request, false);
    while (wait.count() != 0) {
      if (request.stop != nullptr && request.stop->requested()) {
        leave(&request);
        co_return fail(Errc::closed, "stopped");
      }
      co_await ticker_.wait(engine, wait);
      wait = take(&request, true);
    }
  }
  co_return co_await below().run(engine, request);
}

std::chrono::nanoseconds ThrottledDisk::take(const BlockRequest* request, bool waits) {
  const std::scoped_lock lock(mutex_);
  const bool first = waiting_.empty() || waiting_.front() == request;
  // Whoever sleeps does so for the first one, and for a moment at least: it is not its turn yet.
  const auto wait = first ? limiter_.take(request->length)
                          : std::max(limiter_.wait(waiting_.front()->length), std::chrono::nanoseconds(1));
  if (wait.count() != 0 && !waits) waiting_.push_back(request);
  if (wait.count() == 0 && waits) waiting_.pop_front();
  return wait;
}

void ThrottledDisk::leave(const BlockRequest* request) {
  const std::scoped_lock lock(mutex_);
  std::erase(waiting_, request);
}

}  // namespace minivmm
