// Parts of one request that are in flight together, all on the request's engine.
#pragma once

#include <coroutine>
#include <utility>

#include "devices/block/task.h"
#include "vmm/core/error.h"

namespace minivmm {

class TaskGroup {
 public:
  TaskGroup() = default;
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;

  void add(Task<Result<void>> part) {
    ++running_;
    spawn(std::move(part), [this](Result<void> end) {
      if (!end && result_) result_ = end;
      if (--running_ == 0 && waiter_) std::exchange(waiter_, nullptr).resume();
    });
  }
  unsigned running() const { return running_; }

  // Waits for all parts; the first failure, if any. Must be awaited before the group goes.
  struct [[nodiscard]] Awaiter {
    TaskGroup& group;
    bool await_ready() const noexcept { return group.running_ == 0; }
    void await_suspend(std::coroutine_handle<> waiter) const noexcept { group.waiter_ = waiter; }
    Result<void> await_resume() const noexcept { return group.result_; }
  };
  Awaiter all() { return {*this}; }

 private:
  unsigned running_ = 0;
  Result<void> result_;
  std::coroutine_handle<> waiter_;
};

}  // namespace minivmm
