// Reading: from the data, from what was compressed, from the backing file, or nothing at all.

#include <algorithm>

#include "devices/block/qcow2/runtime.h"
#include "devices/block/task_group.h"

namespace minivmm::qcow2 {

namespace {

constexpr unsigned kMostParts = 64;  // of one request, in flight together
// Reads that go without read_now() after one that it could not do: what is not cached costs a system call in
// vain each time.
constexpr unsigned kNotNow = 15;

}  // namespace

Task<Result<void>> Runtime::read(IoEngine& engine, BlockRequest request) {
  const unsigned wait = not_now_.load(std::memory_order_relaxed);
  if (wait != 0) {
    not_now_.store(wait - 1, std::memory_order_relaxed);
  } else if (read_now(request.offset, request.length, request.data)) {
    co_return Result<void>{};
  } else {
    not_now_.store(kNotNow, std::memory_order_relaxed);
  }
  co_return co_await read_locked(engine, request);
}

// What needs a single look at a table in memory and at what the page cache has. No lock is held while it
// reads: had a mapping changed meanwhile, it is not valid, and is done again with one.
bool Runtime::read_now(uint64_t guest, uint64_t length, std::span<const iovec> pieces) {
  const auto before = locks_.look();
  if (!before.quiet()) return false;
  Run run;
  {
    const std::scoped_lock guard(mutex_);
    const auto got = lookup(guest, length, Purpose::read);
    if (!got || got->length != length) return false;
    run = *got;
  }
  if (run.cover == Cover::compressed) return false;
  if (run.cover == Cover::data) {
    if (!data_->read_now(run.host, length, pieces)) return false;
  } else if (run.cover == Cover::unallocated && backed(guest)) {
    if (length > options_.backing->capacity() - guest || !options_.backing->read_now(guest, length, pieces))
      return false;
  } else {
    fill_zero(pieces);
  }
  return locks_.same(before);
}

Task<Result<void>> Runtime::read_locked(IoEngine& engine, BlockRequest request) {
  ClusterLock::Hold hold(locks_);
  co_await hold.take(engine, request.offset >> layout_.cluster_bits,
                     (request.offset + request.length - 1) >> layout_.cluster_bits,
                     ClusterLock::Mode::shared);
  co_return co_await read_mapped(engine, request.offset, request.length, request.data, request.stop);
}

Task<Result<void>> Runtime::read_mapped(IoEngine& engine, uint64_t guest, uint64_t length,
                                        std::span<const iovec> pieces, const StopFlag* stop) {
  TaskGroup parts;
  Result<void> found;
  for (uint64_t done = 0; done < length;) {
    Result<Run> run = fail(Errc::io, "");
    Obstacle obstacle;
    {
      const std::scoped_lock guard(mutex_);
      const auto got = lookup(guest + done, length - done, Purpose::read);
      if (got) {
        run = *got;
      } else {
        obstacle = got.error();
      }
    }
    if (!run && obstacle.cache != nullptr) {
      run = co_await map(engine, guest + done, length - done, Purpose::read);
    } else if (!run) {
      run = std::unexpected(obstacle.error);
    }
    if (!run) {
      found = std::unexpected(run.error());
      break;
    }
    if (run->length == length) co_return co_await read_run(engine, *run, guest, pieces, stop);
    Pieces part = slice(pieces, done, run->length);
    parts.add(read_part(engine, *run, guest + done, std::move(part), stop));
    done += run->length;
    if (parts.running() >= kMostParts) {
      found = co_await parts.all();
      if (!found) break;
    }
  }
  const Result<void> rest = co_await parts.all();
  co_return found ? rest : found;
}

Task<Result<void>> Runtime::read_part(IoEngine& engine, Run run, uint64_t guest, Pieces pieces,
                                      const StopFlag* stop) {
  co_return co_await read_run(engine, run, guest, pieces, stop);
}

Task<Result<void>> Runtime::read_run(IoEngine& engine, Run run, uint64_t guest, std::span<const iovec> pieces,
                                     const StopFlag* stop) {
  switch (run.cover) {
    case Cover::data: return data_->read(engine, run.host, pieces, stop);
    case Cover::compressed:
      return read_compressed(engine, run.host, layout_.in_cluster(guest), run.length, pieces, stop);
    case Cover::unallocated: return read_backing(engine, guest, run.length, pieces, stop);
    case Cover::zero: break;
  }
  return read_nothing(pieces);
}

Task<Result<void>> Runtime::read_nothing(std::span<const iovec> pieces) {
  fill_zero(pieces);
  co_return Result<void>{};
}

Task<Result<void>> Runtime::read_backing(IoEngine& engine, uint64_t guest, uint64_t length,
                                         std::span<const iovec> pieces, const StopFlag* stop) {
  if (!backed(guest)) {
    fill_zero(pieces);
    co_return Result<void>{};
  }
  BlockRequest below;
  below.offset = guest;
  below.length = std::min(length, options_.backing->capacity() - guest);
  below.data = pieces;
  below.stop = stop;
  if (below.length == length) co_return co_await options_.backing->run(engine, below);
  const Pieces past = slice(pieces, below.length, length - below.length);
  fill_zero(past);
  const Pieces within = slice(pieces, 0, below.length);
  below.data = within;
  co_return co_await options_.backing->run(engine, below);
}

Task<Result<bool>> Runtime::reads_zero(IoEngine& engine, uint64_t guest, uint64_t length) {
  while (length > 0) {
    const Result<Run> run = co_await map(engine, guest, length, Purpose::read);
    if (!run) co_return std::unexpected(run.error());
    const bool nothing = run->cover == Cover::unallocated && !backed(guest);
    if (run->cover != Cover::zero && !nothing) co_return false;
    guest += run->length;
    length -= run->length;
  }
  co_return true;
}

Task<Result<BlockExtent>> Runtime::extent(IoEngine& engine, uint64_t offset, uint64_t length) {
  ClusterLock::Hold hold(locks_);
  co_await hold.take(engine, offset >> layout_.cluster_bits, (offset + length - 1) >> layout_.cluster_bits,
                     ClusterLock::Mode::shared);
  const Result<Run> run = co_await map(engine, offset, length, Purpose::read);
  if (!run) co_return std::unexpected(run.error());
  BlockExtent extent;
  extent.length = run->length;
  switch (run->cover) {
    case Cover::data:
      extent.state = BlockExtent::State::data;
      extent.has_host_offset = true;
      extent.host_offset = run->host;
      break;
    case Cover::compressed: extent.state = BlockExtent::State::compressed; break;
    case Cover::zero: extent.state = BlockExtent::State::zero; break;
    case Cover::unallocated:
      extent.state = BlockExtent::State::unallocated;
      if (!backed(offset)) break;
      {
        const uint64_t reach = std::min(run->length, options_.backing->capacity() - offset);
        Result<BlockExtent> below = co_await options_.backing->extent(engine, offset, reach);
        if (below) ++below->depth;
        co_return below;
      }
  }
  co_return extent;
}

}  // namespace minivmm::qcow2
