#include "devices/block/unkillable_thread.h"

#include <system_error>

#include "vmm/core/quiet_thread.h"

namespace minivmm {

UnkillableThread::~UnkillableThread() {
  {
    const std::scoped_lock lock(mutex_);
    over_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

UnkillableThread::Awaited UnkillableThread::run(IoEngine& engine, FileCalls& work) {
  Awaited awaited;
  awaited.thread = this;
  awaited.engine = &engine;
  awaited.work = &work;
  return awaited;
}

bool UnkillableThread::Awaited::await_suspend(std::coroutine_handle<> handle) {
  waiter = handle;
  run = [](IoPosted& self) { static_cast<Awaited&>(self).waiter.resume(); };
  {
    const std::scoped_lock lock(thread->mutex_);
    if (thread->thread_.joinable() || thread->start()) {
      thread->waiting_.push_back(this);
      thread->wake_.notify_one();
      return true;
    }
  }
  run_unkillable(*work);
  return false;
}

bool UnkillableThread::start() {
  try {
    thread_ = start_quiet_thread("block-commit", [this] { serve(); });
  } catch (const std::system_error&) {
    return false;
  }
  return true;
}

void UnkillableThread::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return over_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    Awaited* next = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    run_unkillable(*next->work);
    next->engine->post(*next);  // it may be gone from here on
    lock.lock();
  }
}

}  // namespace minivmm
