// A host file or block device that an image is in: whole transfers, whatever the kernel moved at once;
// alignment where the page cache is bypassed; what fdatasync(2) is worth.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "devices/block/block_script.h"
#include "devices/block/io_engine.h"
#include "devices/block/range_lock.h"
#include "devices/block/unkillable_thread.h"
#include "vmm/core/fd.h"
#include "vmm/core/queue_worker.h"

namespace minivmm {

enum class CacheMode : uint8_t {
  writeback,  // through the host's page cache; a flush is an fdatasync(2)
  none,       // past the page cache (O_DIRECT); a flush is an fdatasync(2)
  unsafe,     // through the page cache, and a flush does nothing: for disks that nobody will miss
};

struct BlockFileOptions {
  bool read_only = false;
  CacheMode cache = CacheMode::writeback;
  bool lock = true;     // file_lock.h: shared for readers, exclusive for writers
  bool create = false;  // O_CREAT | O_EXCL, for new images
  // Its threads have nothing else to do (a copy): with a page cache, writes of any size are made by the
  // calling thread, and so are reads that the cache has. Else that holds for up to 64 KiB.
  bool blocking = false;
};

// Thread-safe: each call does its I/O with the engine it is given.
class BlockFile {
 public:
  // Throws HostError: missing, a directory, no permission, in use, no O_DIRECT there.
  static std::unique_ptr<BlockFile> open(const std::string& path, const BlockFileOptions& options);
  // Takes over an open, locked descriptor.
  BlockFile(UniqueFd fd, std::string path, const BlockFileOptions& options, uint64_t size_bytes);
  virtual ~BlockFile();
  BlockFile(const BlockFile&) = delete;
  BlockFile& operator=(const BlockFile&) = delete;

  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }
  bool read_only() const { return options_.read_only; }
  CacheMode cache() const { return options_.cache; }
  bool blocking() const { return options_.blocking; }
  bool is_block_device() const { return is_device_; }
  // In bytes; a regular file's grows with writes past its end (without the page cache: to a multiple of
  // alignment()). Bytes from here on read as zeroes.
  uint64_t size() const { return size_.load(std::memory_order_acquire); }
  // What O_DIRECT transfers must be aligned to, in bytes; 1 with a page cache. Unaligned ones go through a
  // buffer.
  uint32_t alignment() const { return alignment_; }

  // The pieces' sizes add up to the length; pieces and `stop` stay valid until the end. Errc::io,
  // Errc::no_space; Errc::closed once `stop` says give_up(). Reading past the file's end gives zeroes.
  virtual Task<Result<void>> read(IoEngine&, uint64_t offset, std::span<const iovec> pieces,
                                  const StopFlag* stop = nullptr);
  virtual Task<Result<void>> write(IoEngine&, uint64_t offset, std::span<const iovec> pieces,
                                   const StopFlag* stop = nullptr);
  // The same where it needs no wait, and so no task; false: it was done in part, or not at all. Reading: the
  // page cache has all of it.
  virtual bool read_now(uint64_t offset, uint64_t length, std::span<const iovec> pieces);
  virtual bool write_now(uint64_t offset, uint64_t length, std::span<const iovec> pieces);
  // What was written before is on stable storage. Once the kernel said that it lost some of it (EIO), every
  // later sync fails too: nobody may believe that it was saved after all.
  virtual Task<Result<void>> sync(IoEngine&);
  // Runs the phases one after the other; script.written and script.ended say how far it came. If
  // script.whole, and it has begun, a kill of this process does not end it where the host allows that
  // (unkillable.h).
  virtual Task<Result<void>> run_script(IoEngine&, BlockScript& script);
  // Reads give zeroes afterwards. may_unmap: the space may be freed.
  virtual Task<Result<void>> write_zeroes(IoEngine&, uint64_t offset, uint64_t length, bool may_unmap);
  // The space may be freed; what reads give is not defined. A hint: success where it cannot be done.
  virtual Task<Result<void>> discard(IoEngine&, uint64_t offset, uint64_t length);
  // A regular file's new size: larger (reads zeroes) or smaller. Synchronous, quick.
  virtual Result<void> resize(uint64_t size_bytes);
  // Looks how large it has become by other hands; size() is the answer from then on, unless that is smaller.
  Result<uint64_t> measure();

 protected:
  // The same by write() and sync() of this object, which a kill cuts.
  Task<Result<void>> run_by_steps(IoEngine&, BlockScript& script);

 private:
  enum class Direction : uint8_t { read, write };
  Task<Result<void>> read_plain(IoEngine&, uint64_t offset, std::span<const iovec> pieces,
                                const StopFlag* stop);
  Task<Result<void>> write_plain(IoEngine&, uint64_t offset, std::span<const iovec> pieces,
                                 const StopFlag* stop);
  Task<Result<void>> write_direct(IoEngine&, uint64_t offset, std::span<const iovec> pieces,
                                  const StopFlag* stop);
  Task<Result<void>> write_some(IoEngine&, uint64_t offset, std::span<const iovec> pieces,
                                const StopFlag* stop);
  Task<Result<void>> bounce(IoEngine&, Direction, uint64_t offset, std::span<const iovec> pieces,
                            const StopFlag* stop);
  Task<Result<void>> run_whole(IoEngine&, BlockScript& script);
  Result<void> outcome(const FileCalls& work);
  Task<Result<void>> fill_with_zeroes(IoEngine&, uint64_t offset, uint64_t length);
  int64_t read_cached(uint64_t offset, std::span<const iovec> pieces) const;
  int64_t write_waiting(uint64_t offset, std::span<const iovec> pieces);
  void wrote(uint64_t end, uint64_t bytes);
  bool by_caller(uint64_t bytes) const;  // is such a transfer the calling thread's own to make?
  bool worth_doing_now(uint64_t bytes) const;
  bool aligned(uint64_t offset, std::span<const iovec> pieces) const;
  RangeLock::Held claim(IoEngine&, uint64_t offset, uint64_t length, RangeLock::Mode);
  RangeLock::Held claim_alone(IoEngine&, uint64_t offset, uint64_t length);
  void find_alignment();
  void grow(uint64_t end);

  UniqueFd fd_;
  std::string path_;
  BlockFileOptions options_;
  bool is_device_ = false;
  std::atomic<uint64_t> size_{0};
  uint32_t alignment_ = 1;
  uint32_t memory_alignment_ = 1;
  std::atomic<bool> sync_failed_{false};
  std::atomic<uint64_t> unsynced_{0};  // bytes written by way of the page cache since the last sync, about
  std::atomic<int64_t> not_now_until_{0};  // ns of the steady clock: a write made its thread wait lately
  RangeLock writes_;                       // past the page cache
  UnkillableThread whole_;
};

}  // namespace minivmm
