// A disk whose requests and bytes per second are limited, all queues together, first come first served.
#pragma once

#include <deque>
#include <mutex>

#include "devices/block/disk_filter.h"
#include "devices/block/io_ticker.h"
#include "vmm/core/rate_limiter.h"

namespace minivmm {

class ThrottledDisk final : public DiskFilter {
 public:
  // Flushes are not counted: to hold one back would only make what was written less safe.
  ThrottledDisk(std::unique_ptr<BlockBackend> below, const RateLimiter::Bucket& requests,
                const RateLimiter::Bucket& bytes)
      : DiskFilter(std::move(below)), limiter_(requests, bytes) {}

  // Errc::closed too for a request that was still held back when its queue was asked to stop.
  Task<Result<void>> run(IoEngine& engine, BlockRequest request) override;

 private:
  // Zero: it may begin. `waits`: it is in waiting_ already.
  std::chrono::nanoseconds take(const BlockRequest* request, bool waits);
  void leave(const BlockRequest* request);

  RateLimiter limiter_;
  std::mutex mutex_;
  std::deque<const BlockRequest*> waiting_;  // guarded by mutex_; only the first may take from the limiter
  IoTicker ticker_;
};

}  // namespace minivmm
