// BlockFile's scripts: writes in an order, from the first to the last.
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "devices/block/block_file.h"
#include "devices/block/io_failure.h"
#include "devices/block/task_group.h"

namespace minivmm {

namespace {

constexpr unsigned kMostWrites = 64;                    // in flight
constexpr uint64_t kBufferBytes = uint64_t{256} << 10;  // past the page cache; at least a block
constexpr uint64_t kMuchUnsynced = uint64_t{4} << 20;

struct Free {
  void operator()(void* memory) const { ::free(memory); }
};

using Range = std::pair<uint64_t, uint64_t>;  // begin, end

// The whole blocks that the script writes to: sorted, apart.
std::vector<Range> blocks_of(const BlockScript& script, uint64_t block) {
  std::vector<Range> all;
  for (const auto& phase : script.phases) {
    for (const auto& write : phase.writes) {
      all.emplace_back(write.offset / block * block,
                       (write.offset + write.bytes.size() + block - 1) / block * block);
    }
  }
  std::ranges::sort(all);
  std::vector<Range> apart;
  for (const Range& range : all) {
    if (apart.empty() || range.first > apart.back().second) {
      apart.push_back(range);
    } else {
      apart.back().second = std::max(apart.back().second, range.second);
    }
  }
  return apart;
}

Task<Result<void>> write_all(IoEngine& engine, BlockFile& file,
                             const std::vector<BlockScript::Write>& writes) {
  TaskGroup parts;
  std::vector<iovec> pieces(writes.size());
  for (size_t i = 0; i < writes.size(); ++i) {
    // Only read from.
    pieces[i] = {const_cast<std::byte*>(writes[i].bytes.data()), writes[i].bytes.size()};
    parts.add(file.write(engine, writes[i].offset, std::span(&pieces[i], 1)));
    if (parts.running() < kMostWrites) continue;
    const Result<void> written = co_await parts.all();
    if (!written) co_return written;
  }
  co_return co_await parts.all();
}

}  // namespace

Task<Result<void>> BlockFile::run_script(IoEngine& engine, BlockScript& script) {
  const auto writing =
      std::ranges::count_if(script.phases, [](const auto& phase) { return !phase.writes.empty(); });
  // With all of it in one phase, a kill in the middle is nothing that the script has an order against.
  if (!script.whole || writing < 2) return run_by_steps(engine, script);
  return run_whole(engine, script);
}

Task<Result<void>> BlockFile::run_by_steps(IoEngine& engine, BlockScript& script) {
  for (const BlockScript::Phase& phase : script.phases) {
    Result<void> done = co_await write_all(engine, *this, phase.writes);
    if (!done) co_return done;
    ++script.written;
    if (phase.sync) done = co_await sync(engine);
    if (!done) co_return done;
    ++script.ended;
  }
  co_return Result<void>{};
}

Task<Result<void>> BlockFile::run_whole(IoEngine& engine, BlockScript& script) {
  const bool syncs = options_.cache != CacheMode::unsafe;
  if (syncs && sync_failed_) co_return fail(Errc::io, "the disk image's storage lost what was written");
  std::vector<FileCall> calls;
  for (const BlockScript::Phase& phase : script.phases) {
    for (const BlockScript::Write& write : phase.writes)
      calls.push_back({FileCall::Kind::write, write.offset, write.bytes.data(), write.bytes.size()});
    if (phase.sync && syncs) calls.push_back({FileCall::Kind::datasync});
  }
  FileCalls work;
  work.fd = fd_.get();
  work.calls = calls.data();
  work.count = calls.size();
  work.settle = syncs && unsynced_.exchange(0, std::memory_order_relaxed) > kMuchUnsynced;

  std::deque<RangeLock::Held> held;
  std::unique_ptr<std::byte, Free> buffer;
  if (options_.cache == CacheMode::none) {
    work.block = alignment_;
    work.buffer_bytes = std::max<uint64_t>(kBufferBytes, alignment_);
    buffer.reset(
        static_cast<std::byte*>(::aligned_alloc(std::max<size_t>(4096, alignment_), work.buffer_bytes)));
    if (!buffer) co_return fail(Errc::io, "the host has no memory left");
    work.buffer = buffer.get();
    // Who writes beside it in the same block would bring back what was there, and the other way round.
    const std::vector<Range> blocks = blocks_of(script, alignment_);
    for (const Range& range : blocks) {
      RangeLock::Held& next =
          held.emplace_back(writes_, engine, range.first, range.second, RangeLock::Mode::exclusive);
      co_await next;
    }
  }
  co_await whole_.run(engine, work);

  size_t left = work.done;
  for (const BlockScript::Phase& phase : script.phases) {
    for (size_t i = 0; i < std::min(left, phase.writes.size()); ++i) {
      const uint64_t end = phase.writes[i].offset + phase.writes[i].bytes.size();
      grow((end + alignment_ - 1) / alignment_ * alignment_);
    }
    if (left < phase.writes.size()) break;
    left -= phase.writes.size();
    ++script.written;
    if (phase.sync && syncs && left-- == 0) break;
    ++script.ended;
  }
  co_return outcome(work);
}

Result<void> BlockFile::outcome(const FileCalls& work) {
  if (work.error == 0) return {};
  if (work.error == EIO && work.in_sync) {
    sync_failed_ = true;
    return fail(Errc::io, "the disk image's storage lost what was written");
  }
  if (work.error == ECANCELED)
    return fail(Errc::io, "the process that wrote the disk image's metadata was killed");
  return io_failure(-work.error);
}

}  // namespace minivmm
