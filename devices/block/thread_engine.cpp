#include "devices/block/thread_engine.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <system_error>
#include <utility>

namespace minivmm {

namespace {

int64_t call(const IoOperation& op) {
  const auto offset = static_cast<off_t>(op.offset);
  const auto count = static_cast<int>(op.pieces.size());
  switch (op.kind) {
    case IoOperation::Kind::read: return ::preadv2(op.fd, op.pieces.data(), count, offset, 0);
    case IoOperation::Kind::write: return ::pwritev2(op.fd, op.pieces.data(), count, offset, 0);
    case IoOperation::Kind::datasync: return ::fdatasync(op.fd);
    case IoOperation::Kind::allocate:
      return ::fallocate(op.fd, op.mode, offset, static_cast<off_t>(op.length));
  }
  errno = EINVAL;
  return -1;
}

int64_t execute(const IoOperation& op) {
  for (;;) {
    const int64_t result = call(op);
    if (result >= 0) return result;
    if (errno != EINTR) return -errno;
  }
}

}  // namespace

ThreadEngine::ThreadEngine(unsigned depth) : max_threads_(std::min(depth, kMaxThreads)) {}

ThreadEngine::~ThreadEngine() {
  MV_CHECK(in_flight_ == 0);
  {
    const std::scoped_lock lock(mutex_);
    over_ = true;
    work_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void ThreadEngine::start(IoOperation& op) {
  ++in_flight_;
  if (read_at_once(op)) return;
  ++started_count_;
  started_.push(op);
}

// What the page cache has is not worth a thread.
bool ThreadEngine::read_at_once(IoOperation& op) {
  if (op.kind != IoOperation::Kind::read) return false;
  const ssize_t moved = ::preadv2(op.fd, op.pieces.data(), static_cast<int>(op.pieces.size()),
                                  static_cast<off_t>(op.offset), RWF_NOWAIT);
  if (moved < 0) return false;  // EAGAIN, or no such thing here: a thread finds out
  const std::scoped_lock lock(mutex_);
  end(op, moved);
  return true;
}

void ThreadEngine::flush() {
  if (started_.empty()) return;
  const std::scoped_lock lock(mutex_);
  queue_.append(started_.take());
  queued_ += std::exchange(started_count_, 0);
  for (unsigned woken = std::min(idle_, queued_); woken > 0; --woken) work_.notify_one();
  for (unsigned idle = idle_; idle < queued_ && threads_.size() < max_threads_; ++idle) {
    if (!add_thread()) break;
  }
  if (!threads_.empty()) return;
  while (IoOperation* op = queue_.pop()) end(*op, execute(*op));  // the host has no thread left: do it here
  queued_ = 0;
}

bool ThreadEngine::add_thread() {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited: the program's signals are not for these threads
  bool started = true;
  try {
    threads_.emplace_back([this] { serve(); });
    pthread_setname_np(threads_.back().native_handle(), "block-io");
  } catch (const std::system_error&) {
    started = false;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return started;
}

void ThreadEngine::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    work_.wait(lock, [this] { return over_ || !queue_.empty(); });
    --idle_;
    if (queue_.empty()) return;
    IoOperation& op = *queue_.pop();
    --queued_;
    lock.unlock();
    const int64_t result = execute(op);
    lock.lock();
    end(op, result);
  }
}

// With mutex_ held.
void ThreadEngine::end(IoOperation& op, int64_t result) {
  ended_.push_back({&op, result});
  signal_ready();
}

void ThreadEngine::signal_ready() {
  if (!has_ended_.exchange(true, std::memory_order_release)) ready_.signal();
}

unsigned ThreadEngine::poll() {
  flush();
  if (!ready()) return 0;
  IoList<IoPosted> posted;
  {
    const std::scoped_lock lock(mutex_);
    has_ended_.store(false, std::memory_order_relaxed);
    batch_.swap(ended_);
    posted = posted_.take();
  }
  unsigned count = 0;
  for (const Ended& ended : batch_) {
    --in_flight_;
    ++count;
    ended.op->done(*ended.op, ended.result);
  }
  batch_.clear();
  while (IoPosted* item = posted.pop()) {
    item->run(*item);
    ++count;
  }
  flush();
  return count;
}

void ThreadEngine::wait() {
  flush();
  pollfd signalled{ready_.fd(), POLLIN, 0};
  while (!ready() && ::poll(&signalled, 1, -1) < 0 && errno == EINTR) {
  }
  ready_.consume();  // before the caller looks: what comes later is signalled anew
}

void ThreadEngine::post(IoPosted& posted) {
  const std::scoped_lock lock(mutex_);
  posted_.push(posted);
  signal_ready();
}

}  // namespace minivmm
