// One queue's thread: sleeps until its doorbell rings, runs the queue's work, and is joined when destroyed.
// docs/virtqueue.md has the protocol between it and whoever stops it.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>

#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm {

// How the stopping thread tells the working one. Long work looks at it between its steps.
class StopFlag {
 public:
  using Clock = std::chrono::steady_clock;

  // No new request is begun; the one in hand is finished.
  bool requested() const { return requested_.load(std::memory_order_acquire); }
  // Past the deadline: the request in hand is given back unexecuted (doing it again does no harm).
  bool give_up() const { return requested() && Clock::now() >= deadline_; }

 private:
  friend class QueueWorker;
  void request(Clock::time_point deadline) {
    deadline_ = deadline;
    requested_.store(true, std::memory_order_release);  // pairs with the acquire in requested()
  }
  Clock::time_point deadline_{};
  std::atomic<bool> requested_{false};
};

class QueueWorker {
 public:
  // How long a request in hand may go on once a stop was asked for.
  static constexpr std::chrono::milliseconds kStopDeadline{1000};

  // `which` is 0 for the kick, 1 + i for extra[i]. Must not throw.
  using Work = std::function<void(unsigned which, const StopFlag& stop)>;
  // The last that runs on the thread, once a stop was asked for. Must not throw.
  using Last = std::function<void(const StopFlag& stop)>;

  // Starts a thread called `name` (15 characters are kept). It runs work(0) once at once, for what came
  // before it was there; then each time `kick` was signalled, which it watches edge-triggered and never
  // reads: one system call a wake-up. Extra descriptors are watched edge-triggered too: the work takes all
  // that there is. All outlive the worker. Signals stay blocked on it. Errc::io when the host has no thread
  // or descriptor left.
  static Result<std::unique_ptr<QueueWorker>> start(const std::string& name, const EventFd& kick,
                                                    std::span<const int> extra, Work work, Last last = {});
  QueueWorker(const QueueWorker&) = delete;
  QueueWorker& operator=(const QueueWorker&) = delete;
  ~QueueWorker();  // stops and joins

  // Asks it to stop, and returns once it has: after this the work runs no more. Idempotent; not from its own
  // thread.
  void stop();

 private:
  QueueWorker() = default;
  void run();

  EventFd wake_;
  UniqueFd epoll_;
  Work work_;
  Last last_;
  StopFlag stop_;
  std::thread thread_;
};

}  // namespace minivmm
