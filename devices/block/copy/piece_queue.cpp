#include "devices/block/copy/piece_queue.h"

#include <chrono>

namespace minivmm {

namespace {
constexpr size_t kFull = 1024;  // pieces: small beside what is cut
constexpr size_t kLow = kFull / 2;
constexpr auto kMoment = std::chrono::milliseconds(100);
}  // namespace

void PieceQueue::push(const Piece& piece) {
  const std::scoped_lock lock(mutex_);
  pieces_.push_back(piece);
  wake_all();
}

void PieceQueue::end() {
  const std::scoped_lock lock(mutex_);
  ended_ = true;
  wake_all();
}

// A lane may resume on its own thread the moment it is posted; it then takes the mutex itself.
void PieceQueue::wake_all() {
  for (Waiting* waiting : waiting_) waiting->engine->post(*waiting);
  waiting_.clear();
}

bool PieceQueue::has_room() const {
  const std::scoped_lock lock(mutex_);
  return pieces_.size() < kFull;
}

void PieceQueue::wait_for_room() {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kMoment, [this] { return threads_ == 0 || (!ended_ && pieces_.size() <= kLow); });
}

bool PieceQueue::Waiting::await_suspend(std::coroutine_handle<> handle) {
  lane = handle;
  run = [](IoPosted& self) { static_cast<Waiting&>(self).lane.resume(); };
  const std::scoped_lock lock(queue->mutex_);
  if (!queue->pieces_.empty() || queue->ended_) return false;
  queue->waiting_.push_back(this);
  return true;
}

Task<std::optional<Piece>> PieceQueue::take(IoEngine& engine) {
  for (;;) {
    {
      const std::scoped_lock lock(mutex_);
      if (!pieces_.empty()) {
        const Piece piece = pieces_.front();
        pieces_.pop_front();
        if (pieces_.size() == kLow) changed_.notify_all();
        co_return piece;
      }
      if (ended_) co_return std::nullopt;
    }
    Waiting waiting;
    waiting.queue = this;
    waiting.engine = &engine;
    co_await waiting;
  }
}

void PieceQueue::add(int threads) {
  const std::scoped_lock lock(mutex_);
  threads_ += threads;
  if (threads_ == 0) changed_.notify_all();
}

bool PieceQueue::abandoned() const {
  const std::scoped_lock lock(mutex_);
  return threads_ == 0;
}

}  // namespace minivmm
