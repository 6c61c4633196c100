#include "devices/block/copy/sweep.h"

#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "devices/block/copy/piece_queue.h"
#include "vmm/core/fd.h"

namespace minivmm {

namespace {

constexpr unsigned kMaxThreads = 16;

class Sweeper {
 public:
  Sweeper(PieceCutter& pieces, uint64_t step, const PieceWork& work, const SweepOptions& options)
      : pieces_(pieces), step_(step), work_(work), options_(options), engine_(IoEngine::create()) {
    for (unsigned i = 0; i < sweep_threads(options); ++i) {
      engines_.push_back(IoEngine::create());
      buffers_.push_back(Mapping::map(step * options.lanes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "buffers for copying"));
    }
  }

  Result<void> run() {
    std::vector<std::jthread> threads;
    // Also where a thread cannot be started: those that were are waiting for pieces.
    const std::unique_ptr<PieceQueue, decltype([](PieceQueue* queue) { queue->end(); })> end(&queue_);
    for (unsigned i = 0; i < engines_.size(); ++i) {
      queue_.join();
      threads.emplace_back([this, i] { serve(i); });
    }
    cut_all();
    while (!queue_.abandoned()) {
      queue_.wait_for_room();
      tell();
    }
    const std::scoped_lock lock(mutex_);
    return error_ ? Result<void>(std::unexpected(*error_)) : Result<void>{};
  }

 private:
  // On the caller's thread, which the work thus never keeps from cutting on.
  void cut_all() {
    while (!stopping_.load(std::memory_order_relaxed)) {
      if (!queue_.has_room()) {
        queue_.wait_for_room();
        tell();
        continue;
      }
      const auto piece = engine_->run(pieces_.next(*engine_));
      if (!piece) fail_with(piece.error());
      if (!piece || !*piece) break;
      queue_.push(**piece);
    }
    queue_.end();
  }

  void tell() {
    if (options_.progress) options_.progress(done_.load(std::memory_order_relaxed));
  }

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
    queue_.leave();
  }

  Task<Result<void>> lane(IoEngine& engine, unsigned thread, std::span<std::byte> buffer) {
    while (!stopping_.load(std::memory_order_relaxed)) {
      if (options_.cancelled != nullptr && options_.cancelled->load(std::memory_order_relaxed)) {
        co_return fail(Errc::closed, "interrupted");
      }
      const std::optional<Piece> piece = co_await queue_.take(engine);
      if (!piece) break;
      if (piece->kind != PieceKind::skip) {
        const auto worked = co_await work_(engine, thread, *piece, buffer);
        if (!worked) co_return worked;
      }
      done_.fetch_add(piece->length, std::memory_order_relaxed);
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
  std::unique_ptr<IoEngine> engine_;                // the cutter's
  std::vector<std::unique_ptr<IoEngine>> engines_;  // the threads'
  std::vector<Mapping> buffers_;
  PieceQueue queue_;
  std::atomic<uint64_t> done_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
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
