// Ranges of a file that are being written past the page cache. A write that has to read a block before it
// writes it is alone in its blocks; others go on side by side. Fair: who came first goes first.
#pragma once

#include <coroutine>
#include <cstdint>
#include <list>
#include <mutex>

#include "devices/block/io_engine.h"

namespace minivmm {

class RangeLock {
 public:
  enum class Mode : uint8_t { shared, exclusive };

  // [begin, end) is ours from `co_await held`, which follows its construction at once, to its destruction.
  class [[nodiscard]] Held : public IoPosted {
   public:
    Held(RangeLock& owner, IoEngine& engine, uint64_t begin, uint64_t end, Mode mode)
        : owner_(owner), engine_(engine), begin_(begin), end_(end), mode_(mode) {}
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    ~Held() { owner_.release(*this); }

    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle);
    void await_resume() const noexcept {}

   private:
    friend class RangeLock;
    RangeLock& owner_;
    IoEngine& engine_;
    uint64_t begin_;
    uint64_t end_;
    Mode mode_;
    bool granted_ = false;
    std::coroutine_handle<> waiter_;
    std::list<Held*>::iterator place_;
  };

 private:
  void release(Held&);
  bool blocked(const Held&) const;

  std::mutex guard_;
  std::list<Held*> in_order_;  // who holds and who waits, in the order they came
};

}  // namespace minivmm
