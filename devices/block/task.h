// Coroutines for block I/O. A Task<T> is a piece of work that may wait for I/O: it starts when it is awaited
// (or spawned), runs on the thread of the IoEngine it does its I/O with, and is awaited exactly once, or
// never started. Nothing in a task throws: errors are Results.
//
// g++ 12 destroys the task of `co_await (condition ? f() : g())` twice: put the choice into a function that
// returns the task.
#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

namespace minivmm {

template <class T>
class [[nodiscard]] Task;

namespace task_detail {

struct PromiseBase {
  // Who awaits; nobody as long as the awaiter itself is what runs us, and looks at done() afterwards. So a
  // loop over tasks that end at once uses no stack, whether or not the compiler makes tail calls.
  std::coroutine_handle<> awaiter = std::noop_coroutine();

  struct FinalAwaiter {
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) const noexcept {
      return self.promise().awaiter;
    }
    void await_resume() const noexcept {}
  };

  std::suspend_always initial_suspend() const noexcept { return {}; }
  FinalAwaiter final_suspend() const noexcept { return {}; }
  [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }  // out of memory, or our bug
};

template <class T>
struct Promise : PromiseBase {
  std::optional<T> value;
  Task<T> get_return_object() noexcept;
  template <class U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T take() { return std::move(*value); }
};

template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object() noexcept;
  void return_void() const noexcept {}
  void take() const noexcept {}
};

}  // namespace task_detail

template <class T>
class [[nodiscard]] Task {
 public:
  using promise_type = task_detail::Promise<T>;
  using Handle = std::coroutine_handle<promise_type>;

  explicit Task(Handle handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  struct Awaiter {
    Handle handle;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> awaiter) const noexcept {
      handle.resume();
      if (handle.done()) return false;
      handle.promise().awaiter = awaiter;  // nothing of a task runs on another thread meanwhile
      return true;
    }
    T await_resume() const { return handle.promise().take(); }
  };
  Awaiter operator co_await() && noexcept { return {handle_}; }

 private:
  Handle handle_;
};

namespace task_detail {

template <class T>
Task<T> Promise<T>::get_return_object() noexcept {
  return Task<T>(std::coroutine_handle<Promise>::from_promise(*this));
}
inline Task<void> Promise<void>::get_return_object() noexcept {
  return Task<void>(std::coroutine_handle<Promise>::from_promise(*this));
}

// A coroutine that nobody awaits; its frame goes when it ends.
struct Detached {
  struct promise_type {
    Detached get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };
};

template <class T, class Done>
Detached run_detached(Task<T> task, Done done) {
  done(co_await std::move(task));
}

}  // namespace task_detail

// Starts `task` at once; `done(T)` is called when it ends, perhaps before this returns.
template <class T, class Done>
void spawn(Task<T> task, Done done) {
  task_detail::run_detached(std::move(task), std::move(done));
}

}  // namespace minivmm
