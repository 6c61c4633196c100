// IoEngine on a pool of threads that make blocking system calls: for hosts that have no io_uring, or forbid
// it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "devices/block/io_engine.h"
#include "devices/block/io_list.h"
#include "vmm/core/fd.h"

namespace minivmm {

class ThreadEngine final : public IoEngine {
 public:
  // Threads are started as they are needed, min(depth, kMaxThreads) at most. Throws HostError.
  static constexpr unsigned kMaxThreads = 16;
  explicit ThreadEngine(unsigned depth);
  ~ThreadEngine() override;

  Kind kind() const override { return Kind::threads; }
  void start(IoOperation&) override;
  void flush() override;
  unsigned poll() override;
  bool ready() const override { return has_ended_.load(std::memory_order_acquire); }
  void wait() override;
  int fd() const override { return ready_.fd(); }
  void post(IoPosted& posted) override;
  unsigned in_flight() const override { return in_flight_; }

 private:
  struct Ended {
    IoOperation* op;
    int64_t result;
  };

  bool read_at_once(IoOperation&);
  bool add_thread();
  void serve();
  void end(IoOperation& op, int64_t result);
  void signal_ready();

  unsigned max_threads_;
  unsigned in_flight_ = 0;
  IoList<IoOperation> started_;  // not flushed yet
  unsigned started_count_ = 0;
  std::vector<Ended> batch_;

  EventFd ready_;
  std::mutex mutex_;
  std::condition_variable work_;
  IoList<IoOperation> queue_;  // from here on guarded by mutex_
  unsigned queued_ = 0;
  unsigned idle_ = 0;
  std::vector<Ended> ended_;
  IoList<IoPosted> posted_;
  std::atomic<bool> has_ended_{false};  // there is something in ended_ or posted_
  bool over_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace minivmm
