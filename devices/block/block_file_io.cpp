// BlockFile's transfers.
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>

#include "devices/block/block_file.h"
#include "devices/block/io_failure.h"
#include "devices/block/transfer_cursor.h"

namespace minivmm {

namespace {

constexpr uint64_t kBounceBytes = uint64_t{1} << 20;
constexpr uint64_t kNowBytes = uint64_t{64} << 10;  // of a transfer that is done at once
constexpr int64_t kLongNs = 2'000'000;              // a write that made us wait
constexpr int64_t kNotNowNs = 50'000'000;           // then none is done at once for so long

int64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

bool given_up(const StopFlag* stop) {
  return stop != nullptr && stop->give_up();
}

bool try_again(int64_t result) {
  return result == -EINTR || result == -EAGAIN;
}

void clear(TransferCursor& cursor) {
  while (cursor.left() > 0) {
    uint64_t bytes = 0;
    for (const iovec& piece : cursor.next()) {
      std::memset(piece.iov_base, 0, piece.iov_len);
      bytes += piece.iov_len;
    }
    cursor.advance(bytes);
  }
}

// Copies between the cursor's next pieces and `bytes`, and moves it on.
template <class Copy>
void copy_pieces(TransferCursor& cursor, std::span<std::byte> bytes, Copy copy) {
  while (!bytes.empty()) {
    uint64_t moved = 0;
    for (const iovec& piece : cursor.next()) {
      const auto part = bytes.first(std::min<size_t>(bytes.size(), piece.iov_len));
      copy(static_cast<std::byte*>(piece.iov_base), part);
      bytes = bytes.subspan(part.size());
      moved += part.size();
      if (bytes.empty()) break;
    }
    cursor.advance(moved);
  }
}

uint64_t total(std::span<const iovec> pieces) {
  uint64_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  return bytes;
}

struct Free {
  void operator()(void* memory) const { ::free(memory); }
};

}  // namespace

Task<Result<void>> BlockFile::read(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                                   const StopFlag* stop) {
  return aligned(offset, pieces) ? read_plain(engine, offset, pieces, stop)
                                 : bounce(engine, Direction::read, offset, pieces, stop);
}

Task<Result<void>> BlockFile::write(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                                    const StopFlag* stop) {
  return alignment_ == 1 ? write_plain(engine, offset, pieces, stop)
                         : write_direct(engine, offset, pieces, stop);
}

Task<Result<void>> BlockFile::read_plain(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                                         const StopFlag* stop) {
  TransferCursor cursor(pieces);
  while (cursor.left() > 0) {
    if (given_up(stop)) co_return fail(Errc::closed, "stopped");
    const uint64_t size = this->size();
    const auto now = cursor.next();
    int64_t moved = -EAGAIN;
    if (by_caller(cursor.left())) {
      moved = read_cached(offset + cursor.done(), now);
    }
    if (moved < 0) moved = co_await engine.read(fd_.get(), offset + cursor.done(), now);
    if (try_again(moved)) continue;
    if (moved < 0) co_return io_failure(moved);
    cursor.advance(static_cast<uint64_t>(moved));
    const uint64_t at = offset + cursor.done();
    // Past the page cache the last read of an odd-sized file ends where no other may begin.
    if (cursor.left() == 0 || (moved > 0 && at % alignment_ == 0)) continue;
    if (at < size) co_return fail(Errc::io, "the disk image became shorter");
    clear(cursor);
  }
  co_return Result<void>{};
}

Task<Result<void>> BlockFile::write_plain(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                                          const StopFlag* stop) {
  TransferCursor cursor(pieces);
  while (cursor.left() > 0) {
    if (given_up(stop)) co_return fail(Errc::closed, "stopped");
    const auto now = cursor.next();
    int64_t moved = 0;
    if (worth_doing_now(cursor.left())) {
      moved = write_waiting(offset + cursor.done(), now);
    } else {
      moved = co_await engine.write(fd_.get(), offset + cursor.done(), now);
    }
    if (try_again(moved)) continue;
    if (moved < 0) co_return io_failure(moved);
    if (moved == 0) co_return fail(Errc::io, "the disk image takes no more");
    cursor.advance(static_cast<uint64_t>(moved));
    wrote(offset + cursor.done(), static_cast<uint64_t>(moved));
  }
  co_return Result<void>{};
}

bool BlockFile::read_now(uint64_t offset, uint64_t length, std::span<const iovec> pieces) {
  if (!by_caller(length) || pieces.size() > TransferCursor::kMaxPieces) return false;
  return read_cached(offset, pieces) == static_cast<int64_t>(length);
}

bool BlockFile::write_now(uint64_t offset, uint64_t length, std::span<const iovec> pieces) {
  if (!worth_doing_now(length) || pieces.size() > TransferCursor::kMaxPieces) return false;
  const int64_t moved = write_waiting(offset, pieces);
  if (moved > 0) wrote(offset + static_cast<uint64_t>(moved), static_cast<uint64_t>(moved));
  return moved == static_cast<int64_t>(length);
}

void BlockFile::wrote(uint64_t end, uint64_t bytes) {
  grow(end);
  if (options_.cache != CacheMode::none) unsynced_.fetch_add(bytes, std::memory_order_relaxed);
}

bool BlockFile::by_caller(uint64_t bytes) const {
  return options_.cache != CacheMode::none && (options_.blocking || bytes <= kNowBytes);
}

// What the page cache has. Anything else is negative, and for the engine to find out.
int64_t BlockFile::read_cached(uint64_t offset, std::span<const iovec> pieces) const {
  return ::preadv2(fd_.get(), pieces.data(), static_cast<int>(pieces.size()), static_cast<off_t>(offset),
                   RWF_NOWAIT);
}

// io_uring(7) hands a buffered write to a kernel thread on most file systems, one after the other for each
// file: more dear than to copy a little into the page cache, and no more parallel. Not for a while after that
// made us wait (for a block to be read, for dirty pages to be written), because reads wait behind us.
bool BlockFile::worth_doing_now(uint64_t bytes) const {
  return by_caller(bytes) &&
         (options_.blocking || now_ns() >= not_now_until_.load(std::memory_order_relaxed));
}

int64_t BlockFile::write_waiting(uint64_t offset, std::span<const iovec> pieces) {
  const int64_t before = now_ns();
  const ssize_t moved =
      ::pwritev(fd_.get(), pieces.data(), static_cast<int>(pieces.size()), static_cast<off_t>(offset));
  const int64_t result = moved < 0 ? -errno : moved;
  const int64_t after = now_ns();
  if (after - before > kLongNs) not_now_until_.store(after + kNotNowNs, std::memory_order_relaxed);
  return result;
}

Task<Result<void>> BlockFile::write_direct(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                                           const StopFlag* stop) {
  // Two unaligned writes to one block would each write back what the other has just replaced.
  const bool alone = !aligned(offset, pieces);
  auto held =
      claim(engine, offset, total(pieces), alone ? RangeLock::Mode::exclusive : RangeLock::Mode::shared);
  co_await held;
  co_return co_await write_some(engine, offset, pieces, stop);
}

Task<Result<void>> BlockFile::write_some(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                                         const StopFlag* stop) {
  return aligned(offset, pieces) ? write_plain(engine, offset, pieces, stop)
                                 : bounce(engine, Direction::write, offset, pieces, stop);
}

Task<Result<void>> BlockFile::bounce(IoEngine& engine, Direction direction, uint64_t offset,
                                     std::span<const iovec> pieces, const StopFlag* stop) {
  const uint64_t block = alignment_;
  TransferCursor cursor(pieces);
  const std::unique_ptr<std::byte, Free> memory(
      static_cast<std::byte*>(::aligned_alloc(std::max<size_t>(4096, block), kBounceBytes)));
  if (!memory) co_return fail(Errc::io, "the host has no memory left");
  while (cursor.left() > 0) {
    const uint64_t at = offset + cursor.done();
    const uint64_t begin = at / block * block;
    const uint64_t end = std::min(begin + kBounceBytes, (at + cursor.left() + block - 1) / block * block);
    const uint64_t bytes = std::min(cursor.left(), end - at);
    const auto part = std::span(memory.get() + (at - begin), bytes);
    const iovec whole{memory.get(), end - begin};
    if (direction == Direction::read || bytes != end - begin) {
      if (auto r = co_await read_plain(engine, begin, std::span(&whole, 1), stop); !r) co_return r;
    }
    if (direction == Direction::read) {
      copy_pieces(cursor, part, [](std::byte* to, std::span<std::byte> from) {
        std::memcpy(to, from.data(), from.size());
      });
      continue;
    }
    copy_pieces(cursor, part,
                [](std::byte* from, std::span<std::byte> to) { std::memcpy(to.data(), from, to.size()); });
    if (auto r = co_await write_plain(engine, begin, std::span(&whole, 1), stop); !r) co_return r;
  }
  co_return Result<void>{};
}

Task<Result<void>> BlockFile::sync(IoEngine& engine) {
  if (options_.cache == CacheMode::unsafe) co_return Result<void>{};
  unsynced_.store(0, std::memory_order_relaxed);
  for (;;) {
    const int64_t result = co_await engine.datasync(fd_.get());
    if (try_again(result)) continue;
    if (result == -EIO) sync_failed_ = true;
    if (sync_failed_) co_return fail(Errc::io, "the disk image's storage lost what was written");
    if (result < 0) co_return io_failure(result);
    co_return Result<void>{};
  }
}

Task<Result<void>> BlockFile::write_zeroes(IoEngine& engine, uint64_t offset, uint64_t length,
                                           bool may_unmap) {
  if (length == 0) co_return Result<void>{};
  auto held = claim_alone(engine, offset, length);
  co_await held;
  const int mode = (may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
  int64_t result = 0;
  do {
    result = co_await engine.allocate(fd_.get(), mode, offset, length);
  } while (try_again(result));
  if (result == 0) co_return Result<void>{};
  // EINVAL: a block device, and no whole blocks.
  if (result != -EOPNOTSUPP && result != -ENOSYS && result != -EINVAL) co_return io_failure(result);
  co_return co_await fill_with_zeroes(engine, offset, length);
}

Task<Result<void>> BlockFile::fill_with_zeroes(IoEngine& engine, uint64_t offset, uint64_t length) {
  alignas(4096) static constexpr std::array<std::byte, 65536> kZeroes{};
  std::array<iovec, 16> pieces{};
  while (length > 0) {
    uint64_t bytes = 0;
    size_t count = 0;
    for (; count < pieces.size() && bytes < length; ++count) {
      const uint64_t piece = std::min<uint64_t>(kZeroes.size(), length - bytes);
      pieces[count] = {const_cast<std::byte*>(kZeroes.data()), piece};  // only read from
      bytes += piece;
    }
    const auto now = std::span<const iovec>(pieces).first(count);
    auto written = co_await write_some(engine, offset, now, nullptr);
    if (!written) co_return written;
    offset += bytes;
    length -= bytes;
  }
  co_return Result<void>{};
}

Task<Result<void>> BlockFile::discard(IoEngine& engine, uint64_t offset, uint64_t length) {
  if (length == 0) co_return Result<void>{};
  auto held = claim_alone(engine, offset, length);
  co_await held;
  for (;;) {
    const int64_t result =
        co_await engine.allocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    if (try_again(result)) continue;
    if (result == 0 || result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL)
      co_return Result<void>{};
    co_return io_failure(result);
  }
}

bool BlockFile::aligned(uint64_t offset, std::span<const iovec> pieces) const {
  if (alignment_ == 1) return true;
  return offset % alignment_ == 0 && std::ranges::all_of(pieces, [this](const iovec& piece) {
           return reinterpret_cast<uintptr_t>(piece.iov_base) % memory_alignment_ == 0 &&
                  piece.iov_len % alignment_ == 0;
         });
}

RangeLock::Held BlockFile::claim(IoEngine& engine, uint64_t offset, uint64_t length, RangeLock::Mode mode) {
  const uint64_t block = alignment_;
  return {writes_, engine, offset / block * block, (offset + length + block - 1) / block * block, mode};
}

// An unaligned write beside it would bring the old bytes back.
RangeLock::Held BlockFile::claim_alone(IoEngine& engine, uint64_t offset, uint64_t length) {
  return claim(engine, offset, length,
               alignment_ == 1 ? RangeLock::Mode::shared : RangeLock::Mode::exclusive);
}

void BlockFile::grow(uint64_t end) {
  if (is_device_) return;
  uint64_t size = size_.load(std::memory_order_relaxed);
  while (size < end && !size_.compare_exchange_weak(size, end, std::memory_order_acq_rel)) {
  }
}

}  // namespace minivmm
