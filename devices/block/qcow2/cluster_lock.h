// Locks on ranges of guest clusters: shared by what leaves the mapping alone, exclusive for what changes it.
// Fair: nobody overtakes one who waits for the same clusters.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <mutex>

#include "devices/block/io_engine.h"

namespace minivmm::qcow2 {

class ClusterLock {
 public:
  enum class Mode : uint8_t { shared, exclusive };

  // One lock, in the frame of the task that wants it: `co_await hold.take(...)`; gone with leave() or the
  // frame.
  class Hold : IoPosted {
   public:
    explicit Hold(ClusterLock& lock) : lock_(lock) {}
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    ~Hold() { leave(); }

    // Clusters first to last, both included. Thread-safe; the task is resumed on `engine`.
    struct [[nodiscard]] Awaiter {
      Hold& hold;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> waiter) const { return hold.enter(waiter); }
      void await_resume() const noexcept {}
    };
    Awaiter take(IoEngine& engine, uint64_t first, uint64_t last, Mode mode) {
      engine_ = &engine;
      first_ = first;
      last_ = last;
      mode_ = mode;
      return {*this};
    }
    // Takes it at once, or not at all.
    bool try_take(uint64_t first, uint64_t last, Mode mode);
    void leave();

   private:
    friend class ClusterLock;
    bool enter(std::coroutine_handle<> waiter);  // true: it has to wait
    void link();                                 // the newest one; under the guard
    void unlink();
    bool conflicts(const Hold& other) const {
      return first_ <= other.last_ && other.first_ <= last_ &&
             (mode_ == Mode::exclusive || other.mode_ == Mode::exclusive);
    }

    ClusterLock& lock_;
    IoEngine* engine_ = nullptr;
    std::coroutine_handle<> waiter_;
    Hold* earlier_ = nullptr;
    Hold* later_ = nullptr;
    uint64_t first_ = 0;
    uint64_t last_ = 0;
    Mode mode_ = Mode::shared;
    bool entered_ = false;
    bool held_ = false;
  };

 public:
  // For a read that is done at once, by a thread that takes no lock and looks before and after: what it read
  // counts if nobody had, wanted or got an exclusive lock meanwhile.
  struct Look {
    uint64_t seen;
    bool quiet() const { return seen % kChange == 0; }
  };
  Look look() const { return {changes_.load(std::memory_order_acquire)}; }
  // An exchange, as no load is kept behind the loads before it. Pairs with enter()'s.
  bool same(Look before) { return changes_.fetch_add(0, std::memory_order_acq_rel) == before.seen; }

 private:
  static constexpr uint64_t kChange = uint64_t{1} << 32;
  bool must_wait(const Hold& hold) const;
  bool has_exclusive() const { return changes_.load(std::memory_order_relaxed) % kChange != 0; }

  std::mutex guard_;
  Hold* oldest_ = nullptr;  // holders and waiters in the order they came
  Hold* newest_ = nullptr;
  unsigned waiting_ = 0;
  // Changed under the guard: kChange times how many exclusive ones ever came, and how many there are.
  std::atomic<uint64_t> changes_{0};
};

}  // namespace minivmm::qcow2
