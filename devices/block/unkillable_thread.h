// A thread that waits for the helper of run_unkillable(), so that those who await it go on meanwhile.
#pragma once

#include <condition_variable>
#include <coroutine>
#include <deque>
#include <mutex>
#include <thread>

#include "devices/block/io_engine.h"
#include "devices/block/unkillable.h"

namespace minivmm {

class UnkillableThread {
 public:
  UnkillableThread() = default;
  ~UnkillableThread();  // with nobody waiting
  UnkillableThread(const UnkillableThread&) = delete;
  UnkillableThread& operator=(const UnkillableThread&) = delete;

  struct [[nodiscard]] Awaited : IoPosted {
    UnkillableThread* thread = nullptr;
    IoEngine* engine = nullptr;
    FileCalls* work = nullptr;
    std::coroutine_handle<> waiter;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle);
    void await_resume() const noexcept {}
  };
  // `co_await thread.run(engine, work)`. One after the other, as they come. The thread is started with the
  // first; where the host has none left, the calling thread does the work.
  Awaited run(IoEngine& engine, FileCalls& work);

 private:
  bool start();
  void serve();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Awaited*> waiting_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace minivmm
