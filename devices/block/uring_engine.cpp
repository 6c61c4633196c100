#include "devices/block/uring_engine.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace minivmm {

namespace {

// One thread submits and reaps, so the kernel need take no lock, and need not interrupt it to post
// completions (6.1). Older kernels do without.
constexpr std::array<unsigned, 3> kFlags{
    IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER |
        IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN |
        IORING_SETUP_TASKRUN_FLAG,  // 5.19
    IORING_SETUP_R_DISABLED,        // 5.10
};

}  // namespace

std::unique_ptr<UringEngine> UringEngine::create(unsigned depth) {
  std::unique_ptr<UringEngine> engine(new UringEngine(depth));
  int error = 0;
  for (const unsigned flags : kFlags) {
    error = ::io_uring_queue_init(depth, &engine->ring_, flags | IORING_SETUP_CLAMP);
    if (error != -EINVAL) break;
  }
  if (error != 0) {
    errno = -error;
    return nullptr;
  }
  engine->set_up_ = true;
  if ((error = ::io_uring_register_eventfd(&engine->ring_, engine->ready_.fd())) != 0) {
    errno = -error;
    return nullptr;
  }
  // No completion is lost when the completion ring is full (5.5), and iovecs are read at submission (5.5).
  constexpr unsigned kNeeded = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
  if ((engine->ring_.features & kNeeded) != kNeeded) {
    errno = ENOSYS;
    return nullptr;
  }
  return engine;
}

UringEngine::~UringEngine() {
  MV_CHECK(in_flight_ == 0);
  if (set_up_) ::io_uring_queue_exit(&ring_);
}

void UringEngine::enable() {
  // By hand: the shared liburing 2.3 does not export its function for it.
  MV_CHECK(::syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) == 0);
  enabled_ = true;
}

bool UringEngine::prepare(IoOperation& op) {
  io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
  if (sqe == nullptr) return false;
  const auto count = static_cast<unsigned>(op.pieces.size());
  switch (op.kind) {
    case IoOperation::Kind::read:
      if (count == 1) {
        ::io_uring_prep_read(sqe, op.fd, op.pieces[0].iov_base, static_cast<unsigned>(op.pieces[0].iov_len),
                             op.offset);
      } else {
        ::io_uring_prep_readv(sqe, op.fd, op.pieces.data(), count, op.offset);
      }
      break;
    case IoOperation::Kind::write:
      if (count == 1) {
        ::io_uring_prep_write(sqe, op.fd, op.pieces[0].iov_base, static_cast<unsigned>(op.pieces[0].iov_len),
                              op.offset);
      } else {
        ::io_uring_prep_writev(sqe, op.fd, op.pieces.data(), count, op.offset);
      }
      break;
    case IoOperation::Kind::datasync: ::io_uring_prep_fsync(sqe, op.fd, IORING_FSYNC_DATASYNC); break;
    case IoOperation::Kind::allocate:
      ::io_uring_prep_fallocate(sqe, op.fd, op.mode, static_cast<off_t>(op.offset),
                                static_cast<off_t>(op.length));
      break;
  }
  ::io_uring_sqe_set_data(sqe, &op);
  ++submitted_;
  return true;
}

void UringEngine::start(IoOperation& op) {
  if (!enabled_) enable();
  ++in_flight_;
  if (submitted_ >= depth_ || !backlog_.empty() || !prepare(op)) backlog_.push(op);
}

// Moves what waits into the submission ring, as far as there is room.
void UringEngine::fill() {
  if (!enabled_) enable();
  while (submitted_ < depth_ && !backlog_.empty() && ::io_uring_sq_space_left(&ring_) > 0) {
    prepare(*backlog_.pop());
  }
}

void UringEngine::flush() {
  fill();
  if (::io_uring_sq_ready(&ring_) == 0) return;
  ::io_uring_submit(&ring_);
  // EINTR, EAGAIN (no memory), EBUSY (completions to be reaped first): whoever sleeps next is to try again.
  if (::io_uring_sq_ready(&ring_) > 0) ready_.signal();
}

unsigned UringEngine::reap() {
  std::array<io_uring_cqe*, 32> batch{};
  unsigned done = 0;
  // Not for ever: what a completion starts may complete at once.
  while (done < reap_limit()) {
    const unsigned count = ::io_uring_peek_batch_cqe(&ring_, batch.data(), batch.size());
    if (count == 0) break;
    struct Ended {
      IoOperation* op;
      int result;
    };
    std::array<Ended, batch.size()> ended{};
    for (unsigned i = 0; i < count; ++i) {
      ended[i] = {static_cast<IoOperation*>(::io_uring_cqe_get_data(batch[i])), batch[i]->res};
    }
    ::io_uring_cq_advance(&ring_, count);  // before `done` runs, which may start more
    for (unsigned i = 0; i < count; ++i) {
      --submitted_;
      --in_flight_;
      ++done;
      ended[i].op->done(*ended[i].op, ended[i].result);
    }
  }
  return done;
}

unsigned UringEngine::run_posted() {
  if (!has_posted_.load(std::memory_order_acquire)) return 0;
  IoList<IoPosted> posted;
  {
    const std::scoped_lock lock(mutex_);
    posted = posted_.take();
    has_posted_.store(false, std::memory_order_relaxed);
  }
  unsigned count = 0;
  while (IoPosted* item = posted.pop()) {
    item->run(*item);
    ++count;
  }
  return count;
}

unsigned UringEngine::poll() {
  flush();
  const unsigned ended = reap();
  if (ended >= reap_limit()) ready_.signal();  // there may be more, signalled already
  const unsigned ran = run_posted();
  flush();
  return ended + ran;
}

bool UringEngine::ready() const {
  // The kernel's stores to these come before its signal to ready_, so that nothing is missed by who looks
  // here before sleeping.
  return ::io_uring_cq_ready(&ring_) > 0 ||
         (IO_URING_READ_ONCE(*ring_.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0 ||
         has_posted_.load(std::memory_order_acquire);
}

void UringEngine::wait() {
  flush();
  pollfd signalled{ready_.fd(), POLLIN, 0};
  while (!ready() && ::poll(&signalled, 1, -1) < 0 && errno == EINTR) {
  }
  ready_.consume();  // before the caller looks: what comes later is signalled anew
}

void UringEngine::post(IoPosted& posted) {
  const std::scoped_lock lock(mutex_);
  posted_.push(posted);
  if (!has_posted_.exchange(true, std::memory_order_release)) ready_.signal();
}

}  // namespace minivmm
