// The machine's one event thread: descriptors, timers and posted work, on Asio (which only event_loop.cpp
// includes).
#pragma once

#include <chrono>
#include <functional>
#include <memory>

namespace minivmm {

using Clock = std::chrono::steady_clock;

// A one-shot timer. Thread-safe: arm() and cancel() may be called from any thread; the callback runs on the
// loop's. A callback that was already due when cancel() or arm() was called may still run once.
class Timer {
 public:
  virtual ~Timer() =
      default;  // after this returns on the loop's thread, or with the loop stopped, no callback runs
  virtual void arm(Clock::time_point deadline) = 0;  // replaces an earlier deadline
  virtual void cancel() = 0;
};

// What a device needs of time: its tests give it a clock they turn by hand.
class TimeSource {
 public:
  virtual ~TimeSource() = default;
  virtual Clock::time_point now() const = 0;
  virtual std::unique_ptr<Timer> make_timer(std::function<void()> on_expiry) = 0;
};

// A descriptor being watched; destroying it stops the watch (not the descriptor).
class Watch {
 public:
  virtual ~Watch() = default;
  virtual void pause() = 0;   // stop asking for readiness: back-pressure
  virtual void resume() = 0;  // thread-safe, as is pause()
};

class EventLoop final : public TimeSource {
 public:
  EventLoop();
  ~EventLoop() override;

  void run();                             // until stop(); callbacks must not throw
  void stop();                            // thread-safe; run() returns after the callback in progress
  void post(std::function<void()> work);  // thread-safe

  Clock::time_point now() const override { return Clock::now(); }
  std::unique_ptr<Timer> make_timer(std::function<void()> on_expiry) override;

  // Calls `on_ready` on the loop's thread each time `fd` is readable (writable). `fd` outlives the watch.
  std::unique_ptr<Watch> watch_readable(int fd, std::function<void()> on_ready);
  std::unique_ptr<Watch> watch_writable(int fd, std::function<void()> on_ready);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace minivmm
