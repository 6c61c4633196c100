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
  // One request of the guest. Adjacent ones of a batch are done together: the first leads, the others hang on
  // it in the order of their offsets.
  struct Request {
    std::optional<Chain> chain;
    BlockRequest own;       // as the guest asked
    IoVec pieces;           // its own, then (of a leader) those of the others
    size_t own_pieces = 0;  // in `pieces`
    uint64_t length = 0;    // bytes, together with the others
    Request* next = nullptr;
    Request* last = nullptr;  // of a leader; itself when alone
    bool flushing = false;    // the flush that makes a write-through write durable
  };

  BlkQueue(BlockBackend& disk, Settings settings, QueueContext context);

  Result<void> drain(Virtqueue& queue, const StopFlag& stop);
  void settle(Virtqueue& queue);
  void take(Virtqueue& queue, Chain&& chain, const StopFlag& stop);
  bool merge(Request& leader, Request& request) const;
  void submit_batch(Virtqueue& queue);
  void submit(Virtqueue& queue, Request& leader);
  void ended(Virtqueue& queue, Request& leader, Result<void> result);
  void submit_apart(Virtqueue& queue, Request& leader);
  void finish(Virtqueue& queue, Request& request, Result<void> result);
  void log_failure(const Error& error);
  void answer(Virtqueue& queue, Chain&& chain, const blk::Answer& answer);
  Request& fresh_request();

  BlockBackend& disk_;
  Settings settings_;
  QueueContext context_;
  std::unique_ptr<IoEngine> engine_;
  std::vector<std::unique_ptr<Request>> requests_;  // all of them; as many as were ever in flight at once
  std::vector<Request*> free_;
  std::vector<Request*> batch_;                 // popped, merged, not submitted yet
  uint64_t begun_bytes_ = 0;                    // by the last drain()
  StopFlag::Clock::time_point last_failure_{};  // that was logged

  std::unique_ptr<QueueRunner> runner_;  // last: its thread uses the rest
};

}  // namespace minivmm
