// Growing and shrinking: the header's size and the tables for it change in one commit.

#include <algorithm>

#include "devices/block/qcow2/runtime.h"

namespace minivmm::qcow2 {

Task<Result<void>> Runtime::resize(IoEngine& engine, uint64_t bytes) {
  Result<void> ready = may_write();
  if (!ready) co_return ready;
  if (bytes % kSectorSize != 0) co_return fail(Errc::invalid, "a disk's size is a multiple of 512 bytes");
  Header wanted = header();
  if (wanted.snapshots != 0 && wanted.version < 3)
    co_return fail(Errc::unsupported, "an image of version 2 with snapshots cannot be resized");
  wanted.size = bytes;
  if (wanted.l1_entries_needed() > kMaxL1Bytes / 8)
    co_return fail(Errc::too_large, "the image's L1 table would become too large");
  if (bytes == capacity()) co_return Result<void>{};
  ready = co_await make_room(engine);
  if (!ready) co_return ready;
  ready = co_await mark_in_use(engine);
  if (!ready) co_return ready;
  if (bytes > capacity()) co_return co_await grow(engine, bytes);
  co_return co_await shrink(engine, bytes);
}

Task<Result<void>> Runtime::grow(IoEngine& engine, uint64_t bytes) {
  const uint64_t old = capacity();
  ClusterLock::Hold hold(locks_);
  co_await hold.take(engine, old >> layout_.cluster_bits, (bytes - 1) >> layout_.cluster_bits,
                     ClusterLock::Mode::exclusive);
  Header wanted = header();
  wanted.size = bytes;
  const uint64_t entries = wanted.l1_entries_needed();
  auto more = [this, entries] { return grow_l1(entries); };
  Result<void> done = co_await attempt_change<void>(engine, more);
  if (!done) co_return done;
  if (data_raw_ && data_->size() < bytes && !data_->is_block_device()) {
    done = data_->resize(bytes);
    if (!done) co_return done;
  }
  // What lay past the end does not come back: the rest of the last cluster, and a longer backing file.
  uint64_t unseen = layout_.cluster_ceil(old);
  if (options_.backing != nullptr)
    unseen = std::max(
        unseen, std::min(layout_.cluster_ceil(bytes), layout_.cluster_ceil(options_.backing->capacity())));
  if (unseen > old) {
    done = co_await zero_range(engine, old, unseen - old, true, nullptr);
    if (!done) co_return done;
  }
  co_return co_await commit_size(engine, bytes);
}

Task<Result<void>> Runtime::shrink(IoEngine& engine, uint64_t bytes) {
  const uint64_t old = capacity();
  ClusterLock::Hold hold(locks_);
  co_await hold.take(engine, bytes >> layout_.cluster_bits, (old - 1) >> layout_.cluster_bits,
                     ClusterLock::Mode::exclusive);
  Result<void> done = co_await free_from(engine, layout_.cluster_ceil(bytes));
  if (done) done = co_await commit_size(engine, bytes);
  if (done && data_raw_ && !data_->is_block_device()) done = data_->resize(bytes);
  co_return done;
}

Task<Result<void>> Runtime::commit_size(IoEngine& engine, uint64_t bytes) {
  uint64_t old = 0;
  {
    const std::scoped_lock guard(mutex_);
    old = std::exchange(header_.size, bytes);
    header_changed_ = true;
  }
  const Result<void> done = co_await commit(engine, !lazy_);
  if (done) {
    capacity_.store(bytes, std::memory_order_release);
  } else {
    const std::scoped_lock guard(mutex_);
    header_.size = old;
  }
  co_return done;
}

Attempt<void> Runtime::grow_l1(uint64_t entries) {
  if (entries <= l1_.size()) return {};
  const uint64_t cluster_size = layout_.cluster_size();
  const auto clusters = [&](uint64_t count) {
    return (count * 8 + cluster_size - 1) >> layout_.cluster_bits;
  };
  const auto placed = refcounts_.allocate_together(clusters(entries));
  if (!placed) return std::unexpected(placed.error());
  if (!l1_.empty()) {
    const uint64_t old = header_.l1_offset >> layout_.cluster_bits;
    const uint64_t count = clusters(l1_.size());
    metadata_.erase_range(old, count);
    release_clusters(old, count, false);
  }
  metadata_.insert_range(placed->first, placed->count);
  l1_.resize(entries);
  header_.l1_offset = placed->first << layout_.cluster_bits;
  header_.l1_size = static_cast<uint32_t>(entries);
  header_changed_ = true;
  l1_moved_ = true;
  return {};
}

// Everything from `guest` (a cluster's start) on loses what it has, the tables too.
Task<Result<void>> Runtime::free_from(IoEngine& engine, uint64_t guest) {
  const uint64_t end = layout_.cluster_ceil(capacity());
  while (guest < end) {
    const Result<void> room = co_await make_room(engine);
    if (!room) co_return room;
    const uint64_t next = std::min(end, layout_.table_end(guest));
    if (guest % layout_.table_reach() == 0) {
      auto whole = [this, guest] { return free_table(guest); };
      const Result<void> done = co_await attempt_change<void>(engine, whole);
      if (!done) co_return done;
    } else {
      auto part = [this, guest, next] { return discard_entries(guest, next, true); };
      const Result<uint64_t> done = co_await attempt_change<uint64_t>(engine, part);
      if (!done) co_return std::unexpected(done.error());
    }
    guest = next;
  }
  co_return Result<void>{};
}

Attempt<void> Runtime::free_table(uint64_t guest) {
  const auto table = table_for(guest);
  if (!table) return std::unexpected(table.error());
  if (*table == nullptr) return {};
  for (uint64_t i = 0; i < uint64_t{1} << layout_.l2_bits; ++i)
    release(load_entry(layout_, (*table)->bytes, i), true);
  const uint64_t offset = (*table)->offset;
  l1_[layout_.l1_index(guest)] = 0;
  mark_l1(layout_.l1_index(guest));
  metadata_.erase(offset >> layout_.cluster_bits);
  tables_.drop(offset);
  release_clusters(offset >> layout_.cluster_bits, 1, false);
  return {};
}

}  // namespace minivmm::qcow2
