#include "devices/block/copy/sweep.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "vmm/core/fd.h"

namespace minivmm {

namespace {

constexpr unsigned kMaxThreads = 16;
constexpr auto kProgressInterval = std::chrono::milliseconds(100);

class Sweeper {
 public:
  Sweeper(PieceCutter& pieces, uint64_t step, const PieceWork& work, const SweepOptions& options)
      : pieces_(pieces), step_(step), work_(work), options_(options), running_(sweep_threads(options)) {
    const unsigned threads = running_;
    for (unsigned i = 0; i < threads; ++i) {
      engines_.push_back(IoEngine::create());
      buffers_.push_back(Mapping::map(step * options.lanes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "buffers for copying"));
    }
  }

  Result<void> run() {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < engines_.size(); ++i) {
      threads.emplace_back([this, i] { serve(i); });
    }
    std::unique_lock lock(mutex_);
    while (running_ != 0) {
      ended_.wait_for(lock, kProgressInterval);
      if (!options_.progress) continue;
      lock.unlock();
      options_.progress(done_.load(std::memory_order_relaxed));
      lock.lock();
    }
    return error_ ? Result<void>(std::unexpected(*error_)) : Result<void>{};
  }

 private:
  void serve(unsigned thread) {
    IoEngine& engine = *engines_[thread];
    unsigned left = options_.lanes;
    for (unsigned i = 0; i < options_.lanes; ++i) {
      spawn(lane(engine, thread, buffers_[thread].bytes().subspan(i * step_, step_)),
            [&](Result<void> result) {
              if (!result) fail_with(result.error());
              --left;
            });
    }
    while (left != 0) {
      if (engine.poll() == 0 && left != 0) engine.wait();
    }
    const std::scoped_lock lock(mutex_);
    if (--running_ == 0) ended_.notify_all();
  }

  Task<Result<void>> lane(IoEngine& engine, unsigned thread, std::span<std::byte> buffer) {
    while (!stopping_.load(std::memory_order_relaxed)) {
      if (options_.cancelled != nullptr && options_.cancelled->load(std::memory_order_relaxed)) {
        co_return fail(Errc::closed, "interrupted");
      }
      const auto piece = co_await pieces_.next(engine);
      if (!piece) co_return std::unexpected(piece.error());
      if (!*piece) break;
      if ((*piece)->kind != PieceKind::skip) {
        const auto worked = co_await work_(engine, thread, **piece, buffer);
        if (!worked) co_return worked;
      }
      done_.fetch_add((*piece)->length, std::memory_order_relaxed);
    }
    co_return Result<void>{};
  }

  void fail_with(const Error& error) {
    const std::scoped_lock lock(mutex_);
    if (!error_) error_ = error;
    stopping_ = true;
  }

  PieceCutter& pieces_;
  const uint64_t step_;
  const PieceWork& work_;
  const SweepOptions& options_;
  std::vector<std::unique_ptr<IoEngine>> engines_;
  std::vector<Mapping> buffers_;
  std::atomic<uint64_t> done_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable ended_;
  unsigned running_;            // guarded by mutex_
  std::optional<Error> error_;  // guarded by mutex_: the first one
};

}  // namespace

unsigned sweep_threads(const SweepOptions& options) {
  if (options.threads != 0) return std::min(options.threads, kMaxThreads);
  return std::clamp(std::thread::hardware_concurrency(), 1U, kMaxThreads);
}

Result<void> sweep(PieceCutter& pieces, uint64_t step, const PieceWork& work, const SweepOptions& options) {
  return Sweeper(pieces, step, work, options).run();
}

}  // namespace minivmm
