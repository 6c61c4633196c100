// A file in memory that remembers what was written to it and synced, and gives the states in which a crash
// may leave it: any writes that no sync has covered may be lost, in any order.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "devices/block/block_file.h"

namespace minivmm::test {

using FileBytes = std::vector<std::byte>;

inline UniqueFd memory_file(const FileBytes& bytes) {
  UniqueFd fd(::memfd_create("disk", MFD_CLOEXEC));
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes.size())) != 0 ||
      ::pwrite(fd.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    throw_errno("fill a memory file");
  return fd;
}

inline std::unique_ptr<BlockFile> memory_block_file(const FileBytes& bytes, bool read_only) {
  BlockFileOptions options;
  options.read_only = read_only;
  options.lock = false;
  return std::make_unique<BlockFile>(memory_file(bytes), "(memory)", options, bytes.size());
}

// Numbers what happens from 1 on; shared by the logs of files that are used together. Thread-safe.
class LogClock {
 public:
  uint64_t now() const { return now_.load(); }
  uint64_t tick() { return ++now_; }

 private:
  std::atomic<uint64_t> now_{0};
};

// What has happened to a file, by the clock's time as it began or ended. Thread-safe.
class BlockLog {
 public:
  struct Write {
    uint64_t offset = 0;
    FileBytes bytes;
    bool resize = false;  // to `offset`
    uint64_t begun = 0;
    uint64_t done = 0;  // 0: never
  };

  struct Sync {
    uint64_t begun;
    uint64_t done;
  };

  explicit BlockLog(FileBytes start, std::shared_ptr<LogClock> clock = std::make_shared<LogClock>())
      : start_(std::move(start)), clock_(std::move(clock)) {}

  const FileBytes& start() const { return start_; }
  uint64_t now() const { return clock_->now(); }
  // A time of its own for what happens above the file.
  uint64_t tick() { return clock_->tick(); }
  // Once nothing is under way.
  const std::vector<Write>& writes() const { return writes_; }
  const std::vector<Sync>& syncs() const { return syncs_; }

  size_t begin(Write write) {
    const std::scoped_lock guard(guard_);
    write.begun = clock_->tick();
    writes_.push_back(std::move(write));
    return writes_.size() - 1;
  }
  void end(size_t write) {
    const std::scoped_lock guard(guard_);
    writes_[write].done = clock_->tick();
  }
  uint64_t begin_sync() { return now(); }
  void end_sync(uint64_t begun) {
    const std::scoped_lock guard(guard_);
    syncs_.push_back({begun, clock_->tick()});
  }

  // Whether a crash after event `when` finds the write in the file in any case.
  bool durable(const Write& write, uint64_t when) const {
    return write.done != 0 && std::ranges::any_of(syncs_, [&](const Sync& sync) {
             return sync.done <= when && write.done <= sync.begun;
           });
  }
  // The writes that a crash after event `when` may lose: indices.
  std::vector<size_t> volatile_writes(uint64_t when) const {
    std::vector<size_t> found;
    for (size_t i = 0; i < writes_.size(); ++i)
      if (writes_[i].begun <= when && !durable(writes_[i], when)) found.push_back(i);
    return found;
  }
  bool completed(size_t write, uint64_t when) const {
    return writes_[write].done != 0 && writes_[write].done <= when;
  }
  // The file after a crash after event `when` that loses the volatile writes `lost` says so of.
  FileBytes after_crash(uint64_t when, const std::function<bool(size_t write)>& lost) const {
    FileBytes bytes = start_;
    for (size_t i = 0; i < writes_.size(); ++i) {
      const Write& write = writes_[i];
      if (write.begun > when || (!durable(write, when) && lost(i))) continue;
      if (write.resize) {
        bytes.resize(write.offset);
        continue;
      }
      if (bytes.size() < write.offset + write.bytes.size()) bytes.resize(write.offset + write.bytes.size());
      std::ranges::copy(write.bytes, bytes.begin() + static_cast<std::ptrdiff_t>(write.offset));
    }
    return bytes;
  }

 private:
  FileBytes start_;
  std::shared_ptr<LogClock> clock_;
  std::mutex guard_;
  std::vector<Write> writes_;
  std::vector<Sync> syncs_;
};

// A discard leaves what there is: nothing may depend on either.
class LoggedFile final : public BlockFile {
 public:
  explicit LoggedFile(std::shared_ptr<BlockLog> log)
      : BlockFile(memory_file(log->start()), "(logged)", unlocked(), log->start().size()),
        log_(std::move(log)) {}

  bool write_now(uint64_t, uint64_t, std::span<const iovec>) override { return false; }
  Task<Result<void>> write(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                           const StopFlag* stop) override {
    BlockLog::Write write;
    write.offset = offset;
    for (const iovec& piece : pieces) {
      const auto* from = static_cast<const std::byte*>(piece.iov_base);
      write.bytes.insert(write.bytes.end(), from, from + piece.iov_len);
    }
    const size_t index = log_->begin(std::move(write));
    const Result<void> done = co_await BlockFile::write(engine, offset, pieces, stop);
    if (done) log_->end(index);
    co_return done;
  }
  Task<Result<void>> sync(IoEngine& engine) override {
    const uint64_t begun = log_->begin_sync();
    const Result<void> done = co_await BlockFile::sync(engine);
    if (done) log_->end_sync(begun);
    co_return done;
  }
  // Step by step, so that each write and sync is seen in its turn.
  Task<Result<void>> run_script(IoEngine& engine, BlockScript& script) override {
    return run_by_steps(engine, script);
  }
  Task<Result<void>> write_zeroes(IoEngine& engine, uint64_t offset, uint64_t length,
                                  bool may_unmap) override {
    const size_t index = log_->begin({offset, FileBytes(length), false, 0, 0});
    const Result<void> done = co_await BlockFile::write_zeroes(engine, offset, length, may_unmap);
    if (done) log_->end(index);
    co_return done;
  }
  Task<Result<void>> discard(IoEngine&, uint64_t, uint64_t) override { co_return Result<void>{}; }
  Result<void> resize(uint64_t size_bytes) override {
    const size_t index = log_->begin({size_bytes, {}, true, 0, 0});
    const Result<void> done = BlockFile::resize(size_bytes);
    if (done) log_->end(index);
    return done;
  }

 private:
  static BlockFileOptions unlocked() {
    BlockFileOptions options;
    options.lock = false;
    return options;
  }
  std::shared_ptr<BlockLog> log_;
};

}  // namespace minivmm::test
