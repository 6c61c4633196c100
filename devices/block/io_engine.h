// One thread's way to files: operations are started, run in the kernel side by side, and their ends are told
// on that same thread. io_uring(7) where the host has it, a pool of threads where not. docs/block.md has the
// rules.
//
// An engine belongs to the first thread that uses it (a queue's worker, or whoever calls run()); it may be
// made and destroyed on another. Only post() may be called by others.
#pragma once

#include <sys/uio.h>

#include <coroutine>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "devices/block/task.h"
#include "vmm/core/error.h"

namespace minivmm {

// One operation; lives until `done` was called. Offsets and lengths in bytes.
struct IoOperation {
  enum class Kind : uint8_t { read, write, datasync, allocate };
  Kind kind = Kind::read;
  int fd = -1;
  int mode = 0;                     // allocate: fallocate(2)'s
  uint64_t offset = 0;              // all ones: where the file is at (pipes)
  uint64_t length = 0;              // allocate; read and write: the sum of the pieces
  std::span<const iovec> pieces{};  // read, write: at most IOV_MAX
  // `result`: bytes moved (perhaps fewer than asked for), 0, or -errno. May start other operations.
  void (*done)(IoOperation&, int64_t result) = nullptr;
  IoOperation* next = nullptr;  // the engine's
};

// Something to be run on an engine's thread; lives until it runs.
struct IoPosted {
  void (*run)(IoPosted&) = nullptr;
  IoPosted* next = nullptr;  // the engine's
};

class IoEngine {
 public:
  enum class Kind : uint8_t { automatic, uring, threads };

  // `depth`: how many operations the kernel is given at once; more wait here. Throws HostError: no
  // descriptors or threads left, or no io_uring where it was asked for by name.
  static std::unique_ptr<IoEngine> create(Kind kind = Kind::automatic, unsigned depth = 128);
  virtual ~IoEngine() = default;  // with nothing in flight
  IoEngine(const IoEngine&) = delete;
  IoEngine& operator=(const IoEngine&) = delete;

  virtual Kind kind() const = 0;
  // Takes the operation. The kernel may see it only at the next flush(), poll() or wait(): so a batch of
  // requests costs one system call. `done` is never called from within start().
  virtual void start(IoOperation&) = 0;
  virtual void flush() = 0;
  // Calls `done` of what has ended and runs what was posted; how many of both. Cheap when there is nothing.
  virtual unsigned poll() = 0;
  // Whether poll() has something to do. No system call.
  virtual bool ready() const = 0;
  // Blocks until poll() has something to do; perhaps not as long as that.
  virtual void wait() = 0;
  // An eventfd that is signalled whenever poll() has something to do anew, and now and then for nothing. To
  // be watched edge-triggered (EPOLLET): only wait() reads it.
  virtual int fd() const = 0;
  // Any thread. `posted.run` is called by the next poll() on the engine's thread.
  virtual void post(IoPosted& posted) = 0;
  // Operations started and not done.
  virtual unsigned in_flight() const = 0;

  // Awaitables over start(): int64_t result as IoOperation::done's.
  struct Awaited;
  Awaited read(int fd, uint64_t offset, std::span<const iovec> pieces);
  Awaited write(int fd, uint64_t offset, std::span<const iovec> pieces);
  Awaited datasync(int fd);
  Awaited allocate(int fd, int mode, uint64_t offset, uint64_t length);

  // Runs `task` on this thread until it has ended: for tools, tests and set-up.
  template <class T>
  T run(Task<T> task) {
    std::optional<T> out;
    spawn(std::move(task), [&out](T value) { out.emplace(std::move(value)); });
    while (!out) {
      if (poll() == 0 && !out) wait();
    }
    return std::move(*out);
  }

 protected:
  IoEngine() = default;
};

struct [[nodiscard]] IoEngine::Awaited : IoOperation {
  IoEngine* engine = nullptr;
  int64_t result = 0;
  std::coroutine_handle<> waiter;

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    waiter = handle;
    done = [](IoOperation& self, int64_t moved) {
      auto& awaited = static_cast<Awaited&>(self);
      awaited.result = moved;
      awaited.waiter.resume();
    };
    engine->start(*this);
  }
  int64_t await_resume() const noexcept { return result; }
};

inline IoEngine::Awaited IoEngine::read(int fd, uint64_t offset, std::span<const iovec> pieces) {
  Awaited op;
  op.kind = IoOperation::Kind::read;
  op.fd = fd;
  op.offset = offset;
  op.pieces = pieces;
  op.engine = this;
  return op;
}
inline IoEngine::Awaited IoEngine::write(int fd, uint64_t offset, std::span<const iovec> pieces) {
  Awaited op = read(fd, offset, pieces);
  op.kind = IoOperation::Kind::write;
  return op;
}
inline IoEngine::Awaited IoEngine::datasync(int fd) {
  Awaited op = read(fd, 0, {});
  op.kind = IoOperation::Kind::datasync;
  return op;
}
inline IoEngine::Awaited IoEngine::allocate(int fd, int mode, uint64_t offset, uint64_t length) {
  Awaited op = read(fd, offset, {});
  op.kind = IoOperation::Kind::allocate;
  op.mode = mode;
  op.length = length;
  return op;
}

}  // namespace minivmm
