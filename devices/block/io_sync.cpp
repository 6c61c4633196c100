#include "devices/block/io_sync.h"

#include "vmm/core/error.h"

namespace minivmm {

IoMutex::Awaited IoMutex::lock(IoEngine& engine) {
  Awaited awaited;
  awaited.mutex = this;
  awaited.engine = &engine;
  return awaited;
}

bool IoMutex::Awaited::await_suspend(std::coroutine_handle<> handle) {
  waiter = handle;
  run = [](IoPosted& self) { static_cast<Awaited&>(self).waiter.resume(); };
  const std::scoped_lock lock(mutex->guard_);
  if (!mutex->held_) {
    mutex->held_ = true;
    return false;
  }
  mutex->waiting_.push_back(this);
  return true;
}

bool IoMutex::try_lock() {
  const std::scoped_lock lock(guard_);
  return !std::exchange(held_, true);
}

void IoMutex::unlock() {
  const std::scoped_lock lock(guard_);
  MV_CHECK(held_);
  if (waiting_.empty()) {
    held_ = false;
    return;
  }
  Awaited* next = waiting_.front();  // it holds the mutex from now on
  waiting_.pop_front();
  next->engine->post(*next);
}

IoEvent::Awaited IoEvent::wait(IoEngine& engine) {
  Awaited awaited;
  awaited.event = this;
  awaited.engine = &engine;
  return awaited;
}

bool IoEvent::Awaited::await_suspend(std::coroutine_handle<> handle) {
  waiter = handle;
  run = [](IoPosted& self) { static_cast<Awaited&>(self).waiter.resume(); };
  const std::scoped_lock lock(event->guard_);
  if (event->set_) return false;
  event->waiting_.push_back(this);
  return true;
}

void IoEvent::set() {
  const std::scoped_lock lock(guard_);
  set_ = true;
  // A waiter may resume, and destroy its frame, the moment it is posted.
  std::deque<Awaited*> waiting;
  waiting.swap(waiting_);
  for (Awaited* waiter : waiting) waiter->engine->post(*waiter);
}

void IoEvent::reset() {
  const std::scoped_lock lock(guard_);
  MV_CHECK(waiting_.empty());
  set_ = false;
}

}  // namespace minivmm
