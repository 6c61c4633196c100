// One queue of a block device: takes requests to the backend and their results back to the guest. Completions
// may come on any thread; only the queue's own thread (or, once that is joined, the one that stops it)
// touches the virtqueue.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "virtio/device/blk_request.h"
#include "virtio/queue_runner.h"

namespace minivmm {

class BlkQueue {
 public:
  struct Settings {
    blk::DiskFacts disk;
    bool write_through;       // flush was offered and not accepted: a write is durable when it completes
    std::string name;         // for the log
    std::string thread_name;  // 15 characters
  };
  // `disk` outlives it. Errors as QueueRunner::start().
  static Result<std::unique_ptr<BlkQueue>> start(BlockBackend& disk, Settings settings, Virtqueue&& queue,
                                                 QueueContext context);
  BlkQueue(const BlkQueue&) = delete;
  BlkQueue& operator=(const BlkQueue&) = delete;
  ~BlkQueue();

  Virtqueue stop();  // once

 private:
  struct Request {
    BlkQueue* owner;
    std::optional<Chain> chain;
    IoVec pieces;
    BlockRequest request;
    Result<void> result;
    bool flushing = false;  // the flush that makes a write-through write durable
  };

  BlkQueue(BlockBackend& disk, Settings settings, QueueContext context)
      : disk_(disk), settings_(std::move(settings)), context_(context) {}

  Result<void> drain(Virtqueue& queue, const StopFlag& stop);
  void begin(Virtqueue& queue, Chain&& chain, const StopFlag& stop);
  void submit(Request& request);
  void finish_completed(Virtqueue& queue);
  void finish(Virtqueue& queue, Request& request);
  void log_failure(const Error& error);
  void answer(Virtqueue& queue, Chain&& chain, const blk::Answer& answer);
  Request& take_request();
  static void on_done(void* context, Result<void> result);

  BlockBackend& disk_;
  Settings settings_;
  QueueContext context_;
  std::vector<std::unique_ptr<Request>> requests_;  // all of them; as many as were ever in flight at once
  std::vector<Request*> free_;
  EventFd completed_;  // wakes the worker when another thread completed something
  std::thread::id worker_;
  StopFlag::Clock::time_point last_failure_{};  // that was logged

  std::mutex mutex_;
  std::condition_variable idle_;
  std::vector<Request*> done_;  // guarded by mutex_
  unsigned submitted_ = 0;      // guarded by mutex_: at the backend, not in done_ yet
  std::vector<Request*> batch_;

  std::unique_ptr<QueueRunner> runner_;  // last: its thread uses the rest
};

}  // namespace minivmm
