// What tasks of different engines wait for each other with. Thread-safe; a waiter is always resumed on the
// thread of its own engine.
#pragma once

#include <coroutine>
#include <deque>
#include <mutex>

#include "devices/block/io_engine.h"

namespace minivmm {

// A mutual exclusion that is held across I/O. Fair: first come, first served.
class IoMutex {
 public:
  struct [[nodiscard]] Awaited : IoPosted {
    IoMutex* mutex = nullptr;
    IoEngine* engine = nullptr;
    std::coroutine_handle<> waiter;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle);
    void await_resume() const noexcept {}
  };
  // `co_await mutex.lock(engine)`; unlock() by the one who has it, from any thread.
  Awaited lock(IoEngine& engine);
  bool try_lock();
  void unlock();

 private:
  std::mutex guard_;
  bool held_ = false;
  std::deque<Awaited*> waiting_;
};

// Something that happens once, or again after reset(): tasks wait for it.
class IoEvent {
 public:
  struct [[nodiscard]] Awaited : IoPosted {
    IoEvent* event = nullptr;
    IoEngine* engine = nullptr;
    std::coroutine_handle<> waiter;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle);
    void await_resume() const noexcept {}
  };
  Awaited wait(IoEngine& engine);
  void set();    // resumes all who wait; later waits do not wait
  void reset();  // with nobody waiting

 private:
  std::mutex guard_;
  bool set_ = false;
  std::deque<Awaited*> waiting_;
};

}  // namespace minivmm
