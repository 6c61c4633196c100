// One queue of a block device: takes requests to the back end and their results back to the guest. It has an
// I/O engine of its own, and all happens on the queue's thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/block/io_engine.h"
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
  // `disk` outlives it. Errors as QueueRunner::start(), or no engine.
  static Result<std::unique_ptr<BlkQueue>> start(BlockBackend& disk, Settings settings, Virtqueue&& queue,
                                                 QueueContext context);
  BlkQueue(const BlkQueue&) = delete;
  BlkQueue& operator=(const BlkQueue&) = delete;
  ~BlkQueue();

  Virtqueue stop();  // once

 private:
  struct Request {
    std::optional<Chain> chain;
    IoVec pieces;
    BlockRequest request;
  };

  BlkQueue(BlockBackend& disk, Settings settings, QueueContext context);

  Result<void> drain(Virtqueue& queue, const StopFlag& stop);
  void settle(Virtqueue& queue);
  void begin(Virtqueue& queue, Chain&& chain, const StopFlag& stop);
  void submit(Virtqueue& queue, Request& request);
  void finish(Virtqueue& queue, Request& request, Result<void> result);
  void log_failure(const Error& error);
  void answer(Virtqueue& queue, Chain&& chain, const blk::Answer& answer);
  Request& take_request();

  BlockBackend& disk_;
  Settings settings_;
  QueueContext context_;
  std::unique_ptr<IoEngine> engine_;
  std::vector<std::unique_ptr<Request>> requests_;  // all of them; as many as were ever in flight at once
  std::vector<Request*> free_;
  StopFlag::Clock::time_point last_failure_{};  // that was logged

  std::unique_ptr<QueueRunner> runner_;  // last: its thread uses the rest
};

}  // namespace minivmm
