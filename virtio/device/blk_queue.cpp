#include "virtio/device/blk_queue.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <utility>

namespace minivmm {

namespace {
// After so many requests the guest is shown what is done, and interrupted, however much more there is.
constexpr unsigned kBatch = 32;
// Of requests that are done together: past this, one large transfer is not better than two.
constexpr uint64_t kMaxMergedBytes = uint64_t{1} << 20;
constexpr size_t kMaxMergedPieces = 512;
// What is begun in one round: with more, its end is not held back for the next round's.
constexpr uint64_t kBriefBytes = uint64_t{128} << 10;
}  // namespace

Result<std::unique_ptr<BlkQueue>> BlkQueue::start(BlockBackend& disk, Settings settings, Virtqueue&& queue,
                                                  QueueContext context) {
  try {
    std::unique_ptr<BlkQueue> self(new BlkQueue(disk, std::move(settings), context));
    const std::array extra{self->engine_->fd()};
    auto runner =
        QueueRunner::start(self->settings_.thread_name, std::move(queue), context, extra,
                           {.drain = [s = self.get()](Virtqueue& q, unsigned,
                                                      const StopFlag& stop) { return s->drain(q, stop); },
                            .settle = [s = self.get()](Virtqueue& q, const StopFlag&) { s->settle(q); },
                            .ready = [e = self->engine_.get()] { return e->ready(); },
                            .brief = [s = self.get()] { return s->begun_bytes_ <= kBriefBytes; }});
    if (!runner) return std::unexpected(runner.error());
    self->runner_ = std::move(*runner);
    return self;
  } catch (const HostError&) {
    return fail(Errc::io, "the host has no more descriptors for a queue");
  }
}

BlkQueue::BlkQueue(BlockBackend& disk, Settings settings, QueueContext context)
    : disk_(disk), settings_(std::move(settings)), context_(context), engine_(IoEngine::create()) {}

BlkQueue::~BlkQueue() {
  if (runner_) stop();
}

Virtqueue BlkQueue::stop() {
  Virtqueue queue = runner_->stop();
  MV_CHECK(queue.in_flight() == 0 && engine_->in_flight() == 0);
  runner_.reset();
  return queue;
}

Result<void> BlkQueue::drain(Virtqueue& queue, const StopFlag& stop) {
  settings_.disk.capacity = disk_.capacity();  // it may have grown
  begun_bytes_ = 0;
  engine_->poll();
  for (unsigned begun = 0; begun < kBatch && !stop.requested(); ++begun) {
    auto popped = queue.pop();
    if (!popped) {
      submit_batch(queue);
      return std::unexpected(popped.error());
    }
    if (!*popped) break;
    take(queue, std::move(**popped), stop);
  }
  submit_batch(queue);
  engine_->poll();  // one system call for the batch; what ends at once is done with
  return {};
}

void BlkQueue::settle(Virtqueue& queue) {
  while (queue.in_flight() != 0) {
    if (engine_->poll() == 0 && queue.in_flight() != 0) engine_->wait();
  }
}

BlkQueue::Request& BlkQueue::fresh_request() {
  if (free_.empty()) {
    requests_.push_back(std::make_unique<Request>());
    free_.push_back(requests_.back().get());
  }
  Request& request = *free_.back();
  free_.pop_back();
  request.pieces.clear();
  request.next = nullptr;
  request.last = &request;
  request.flushing = false;
  return request;
}

void BlkQueue::take(Virtqueue& queue, Chain&& chain, const StopFlag& stop) {
  if (!blk::status_offset(chain)) {
    context_.log.guest_fault(settings_.name, "a block request without room for its status");
    queue.complete(std::move(chain), 0);
    return;
  }
  Request& request = fresh_request();
  auto parsed = blk::parse(chain, settings_.disk, request.pieces);
  if (!parsed) {
    free_.push_back(&request);
    answer(queue, std::move(chain), parsed.error());
    return;
  }
  request.own = *parsed;
  request.own.stop = &stop;
  request.own_pieces = request.pieces.size();
  request.length = request.own.length;
  begun_bytes_ += request.length;
  request.chain.emplace(std::move(chain));
  if (batch_.empty() || !merge(*batch_.back(), request)) batch_.push_back(&request);
}

// Only what follows right behind in the queue too: so the order of requests to one place is kept.
bool BlkQueue::merge(Request& leader, Request& request) const {
  const bool transfer = request.own.op == BlockOp::read || request.own.op == BlockOp::write;
  if (!transfer || request.own.op != leader.own.op ||
      request.own.offset != leader.own.offset + leader.length ||
      leader.length + request.length > kMaxMergedBytes ||
      leader.pieces.size() + request.pieces.size() > kMaxMergedPieces) {
    return false;
  }
  leader.pieces.insert(leader.pieces.end(), request.pieces.begin(), request.pieces.end());
  leader.length += request.length;
  leader.last->next = &request;
  leader.last = &request;
  return true;
}

void BlkQueue::submit_batch(Virtqueue& queue) {
  for (Request* leader : batch_) submit(queue, *leader);
  batch_.clear();
}

void BlkQueue::submit(Virtqueue& queue, Request& leader) {
  BlockRequest request = leader.own;
  request.length = leader.length;
  request.data = leader.pieces;
  if (leader.flushing) request = {.op = BlockOp::flush, .stop = leader.own.stop};
  spawn(disk_.run(*engine_, request),
        [this, &queue, &leader](Result<void> result) { ended(queue, leader, result); });
}

void BlkQueue::ended(Virtqueue& queue, Request& leader, Result<void> result) {
  const bool write = leader.own.op == BlockOp::write || leader.own.op == BlockOp::write_zeroes;
  if (result && write && settings_.write_through && !leader.flushing) {
    // 5.2.6.2, case 1: stable when it completes. Never acknowledged before the flush is.
    leader.flushing = true;
    submit(queue, leader);
    return;
  }
  if (!result && result.error().code != Errc::closed && !leader.flushing && leader.next != nullptr) {
    submit_apart(queue, leader);
    return;
  }
  for (Request* request = &leader; request != nullptr;) {
    Request* next = request->next;
    finish(queue, *request, result);
    request = next;
  }
}

// One bad sector is not to fail the requests beside it.
void BlkQueue::submit_apart(Virtqueue& queue, Request& leader) {
  leader.pieces.resize(leader.own_pieces);
  leader.length = leader.own.length;
  for (Request* request = &leader; request != nullptr;) {
    Request* next = std::exchange(request->next, nullptr);
    request->last = request;
    submit(queue, *request);
    request = next;
  }
}

void BlkQueue::finish(Virtqueue& queue, Request& request, Result<void> result) {
  Chain chain = std::move(*request.chain);
  request.chain.reset();
  free_.push_back(&request);
  if (result) {
    const bool read = request.own.op == BlockOp::read;
    answer(queue, std::move(chain), {blk::Status::ok, read ? request.own.length : 0});
  } else if (result.error().code == Errc::closed) {
    queue.give_back(std::move(chain));
  } else if (result.error().code == Errc::unsupported) {
    answer(queue, std::move(chain), {blk::Status::unsupported});
  } else {
    log_failure(result.error());
    answer(queue, std::move(chain), {blk::Status::io_error});
  }
}

// A line a second at most: a guest can repeat a write to a full disk as fast as we fail it.
void BlkQueue::log_failure(const Error& error) {
  const auto now = StopFlag::Clock::now();
  if (now - last_failure_ < std::chrono::seconds(1)) return;
  last_failure_ = now;
  context_.log.write(LogLevel::warn, fmt::format("{}: a request failed: {}", settings_.name, error.what));
}

void BlkQueue::answer(Virtqueue& queue, Chain&& chain, const blk::Answer& answer) {
  const auto offset = blk::status_offset(chain);
  const auto byte = static_cast<std::byte>(answer.status);
  MV_CHECK(offset && chain.write(*offset, std::span(&byte, 1)));
  // The length promises that so much is new from the start (2.7.8.2), so the status byte counts only where no
  // unwritten data lies before it.
  const uint64_t written = answer.data_written == *offset ? *offset + 1 : answer.data_written;
  queue.complete(std::move(chain), static_cast<uint32_t>(written));
}

}  // namespace minivmm
