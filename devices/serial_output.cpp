#include "devices/serial_output.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <string>
#include <system_error>
#include <utility>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

using namespace std::chrono_literals;

// Long enough to gather a burst of single bytes, too short to be felt while typing.
constexpr auto kGather = 1ms;
constexpr size_t kHurry = 4096;
constexpr auto kStuck = 1s;
constexpr int kFlushPatienceMs = 2000;
constexpr size_t kBlockingChunk = 256;  // what poll() promises a terminal to have room for

// A pipe's reader may be gone, and the library installs no signal handlers: SIGPIPE is kept off this thread.
ssize_t write_without_sigpipe(int fd, const void* data, size_t size) {
  sigset_t pipe_signal;
  sigset_t before;
  sigset_t pending;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  sigpending(&pending);
  pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
  const ssize_t n = ::write(fd, data, size);
  const int error = errno;
  if (n < 0 && error == EPIPE && sigismember(&pending, SIGPIPE) == 0) {
    const timespec now{};
    sigtimedwait(&pipe_signal, nullptr, &now);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return n;
}

bool writable(int fd, int timeout_ms) {
  pollfd p{fd, POLLOUT, 0};
  return ::poll(&p, 1, timeout_ms) == 1;
}

}  // namespace

UniqueFd open_for_output(int fd) {
  struct stat info{};
  if (::fstat(fd, &info) == 0 && (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode))) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    const int own = ::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (own >= 0) return UniqueFd(own);  // else for instance a terminal that belongs to another user
  }
  const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) throw_errno("use descriptor " + std::to_string(fd) + " for serial output");
  return UniqueFd(copy);
}

SerialOutput::SerialOutput(EventLoop& loop, Log& log, WhenStuck when_stuck, std::function<void()> on_room)
    : loop_(loop),
      log_(log),
      when_stuck_(when_stuck),
      on_room_(std::move(on_room)),
      discarding_(when_stuck == WhenStuck::discard),
      flush_timer_(loop.make_timer([this] { on_loop(); })),
      stuck_timer_(loop.make_timer([this] { on_stuck(); })) {}

SerialOutput::~SerialOutput() = default;

void SerialOutput::set_fd(UniqueFd fd) {
  watch_.reset();
  bool refused = false;
  {
    const std::scoped_lock io(io_mutex_);
    struct stat info{};
    fd_ = std::move(fd);
    socket_ = fd_ && ::fstat(fd_.get(), &info) == 0 && S_ISSOCK(info.st_mode);
    may_block_ = fd_ && !socket_ && !S_ISREG(info.st_mode) && (::fcntl(fd_.get(), F_GETFL) & O_NONBLOCK) == 0;
    const std::scoped_lock lock(mutex_);
    discarding_ = !fd_ && when_stuck_ == WhenStuck::discard;
    dead_ = false;
    refused = discarding_ && std::exchange(refused_, false);
  }
  if (refused) on_room_();
  flush_timer_->arm(loop_.now());
}

size_t SerialOutput::write(std::span<const std::byte> data) {
  bool gather = false;
  bool hurry = false;
  bool stuck = false;
  size_t taken = data.size();
  {
    const std::scoped_lock lock(mutex_);
    if (dead_) return data.size();
    if (pending_.size() + data.size() > kCapacity) {
      if (discarding_) {
        // Half at once: dropping byte by byte would move the rest each time.
        const size_t drop = std::min(pending_.size(), std::max(kCapacity / 2, data.size()));
        pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(drop));
        if (data.size() > kCapacity) data = data.last(kCapacity);
      } else {
        data = data.first(kCapacity - pending_.size());
        taken = data.size();
        refused_ = true;
        if (when_stuck_ == WhenStuck::discard && !std::exchange(stuck_armed_, true)) {
          progress_at_stuck_ = progress_;
          stuck = true;
        }
      }
    }
    pending_.insert(pending_.end(), data.begin(), data.end());
    gather = !std::exchange(scheduled_, true);
    hurry = pending_.size() >= kHurry && !std::exchange(hurried_, true);
  }
  // Outside the lock: arming takes a wake-up of the loop's thread, which may run at once.
  if (hurry) {
    flush_timer_->arm(loop_.now());
  } else if (gather) {
    flush_timer_->arm(loop_.now() + kGather);
  }
  if (stuck) stuck_timer_->arm(loop_.now() + kStuck);
  return taken;
}

void SerialOutput::on_stuck() {
  {
    const std::scoped_lock lock(mutex_);
    stuck_armed_ = false;
    if (!refused_) return;
    if (progress_ != progress_at_stuck_) {  // slow, but there: it gets another second
      stuck_armed_ = true;
      progress_at_stuck_ = progress_;
    } else {
      discarding_ = true;
      refused_ = false;
    }
    if (stuck_armed_) {
      stuck_timer_->arm(loop_.now() + kStuck);
      return;
    }
  }
  on_room_();
}

void SerialOutput::on_loop() {
  int blocked_fd = -1;
  {
    const std::scoped_lock io(io_mutex_);
    if (write_out(false) == Progress::blocked) blocked_fd = fd_.get();
  }
  if (blocked_fd >= 0) {
    if (watch_) {
      watch_->resume();
    } else {
      watch_ = loop_.watch_writable(blocked_fd, [this] { on_loop(); });
    }
  } else if (watch_) {
    watch_->pause();
  }
  bool room = false;
  {
    const std::scoped_lock lock(mutex_);
    if (refused_ && (dead_ || discarding_ || pending_.size() <= kCapacity / 2)) {
      refused_ = false;
      room = true;
    }
  }
  if (room) on_room_();
}

// With io_mutex_ held. Unless `all`, leaves what comes in while it writes to the next turn of the loop.
SerialOutput::Progress SerialOutput::write_out(bool all) {
  for (bool first = true;; first = false) {
    if (!fd_) return Progress::blocked;
    if (written_ == writing_.size()) {
      writing_.clear();
      written_ = 0;
      const std::scoped_lock lock(mutex_);
      std::swap(writing_, pending_);
      if (writing_.empty()) {
        scheduled_ = false;
        hurried_ = false;
        return Progress::done;
      }
    }
    if (const Progress progress = write_some(); progress != Progress::done) return progress;
    if (!all && !first) {
      flush_timer_->arm(loop_.now());  // other descriptors are to have their turn
      return Progress::done;
    }
  }
}

// Writes out writing_, with io_mutex_ held.
SerialOutput::Progress SerialOutput::write_some() {
  while (written_ < writing_.size()) {
    const std::byte* data = writing_.data() + written_;
    size_t size = writing_.size() - written_;
    if (may_block_) {
      if (!writable(fd_.get(), 0)) return Progress::blocked;
      size = std::min(size, kBlockingChunk);
    }
    const ssize_t n = socket_ ? ::send(fd_.get(), data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
                              : write_without_sigpipe(fd_.get(), data, size);
    if (n > 0) {
      written_ += static_cast<size_t>(n);
      progress_.fetch_add(1, std::memory_order_relaxed);
      const std::scoped_lock lock(mutex_);
      discarding_ = false;
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return Progress::blocked;
    } else {
      // The disk is full or the reader gone. The guest must not wait for either.
      const int error = n < 0 ? errno : ENOSPC;
      if (when_stuck_ == WhenStuck::discard) {  // the next client gets the rest
        fd_.reset();
        const std::scoped_lock lock(mutex_);
        discarding_ = true;
        return Progress::blocked;
      }
      if (error != EPIPE && error != ECONNRESET) {
        log_.write(LogLevel::warn, "cannot write serial output, which is dropped from now on: " +
                                       std::system_category().message(error));
      }
      const std::scoped_lock lock(mutex_);
      dead_ = true;
      scheduled_ = false;
      hurried_ = false;
      pending_.clear();
      writing_.clear();
      written_ = 0;
      return Progress::dead;
    }
  }
  return Progress::done;
}

void SerialOutput::flush() {
  const std::scoped_lock io(io_mutex_);
  while (fd_ && write_out(true) == Progress::blocked && fd_) {
    {
      const std::scoped_lock lock(mutex_);
      if (discarding_) return;
    }
    if (!writable(fd_.get(), kFlushPatienceMs)) return;
  }
}

}  // namespace minivmm
