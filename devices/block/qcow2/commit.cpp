// Bringing what is in memory to the file, in an order that leaves a sound image at every instant.

#include "devices/block/qcow2/commit.h"

#include <algorithm>
#include <map>

#include "devices/block/qcow2/task_group.h"

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kWriteUnit = 4096;  // bytes; what is written of a table
constexpr size_t kMostFreed = 65536;   // ranges that wait for a commit
constexpr unsigned kMostWrites = 64;   // in flight
constexpr unsigned kMostCommits = 8;   // at close: each may lower counts, which are for the next one

CommitPlan::Write part_of(const Table& table, uint64_t from, uint64_t end) {
  from = from / kWriteUnit * kWriteUnit;
  end = std::min<uint64_t>((end + kWriteUnit - 1) / kWriteUnit * kWriteUnit, table.bytes.size());
  const std::byte* bytes = table.bytes.data();
  return {table.offset + from, {bytes + from, bytes + end}};
}

CommitPlan::Write entries_of(const std::vector<uint64_t>& table, uint64_t offset, uint64_t from,
                             uint64_t end) {
  constexpr uint64_t kUnit = kWriteUnit / 8;
  from = from / kUnit * kUnit;
  end = std::min<uint64_t>((end + kUnit - 1) / kUnit * kUnit, table.size());
  CommitPlan::Write write{offset + from * 8, std::vector<std::byte>((end - from) * 8)};
  for (uint64_t i = from; i < end; ++i) store_be64(write.bytes.data() + (i - from) * 8, table[i]);
  return write;
}

Task<Result<void>> write_all(IoEngine& engine, BlockFile& file,
                             const std::vector<CommitPlan::Write>& writes) {
  TaskGroup parts;
  std::vector<iovec> pieces(writes.size());
  for (size_t i = 0; i < writes.size(); ++i) {
    // Only read from.
    pieces[i] = piece(const_cast<std::byte*>(writes[i].bytes.data()), writes[i].bytes.size());
    parts.add(file.write(engine, writes[i].offset, std::span(&pieces[i], 1)));
    if (parts.running() < kMostWrites) continue;
    const Result<void> written = co_await parts.all();
    if (!written) co_return written;
  }
  co_return co_await parts.all();
}

}  // namespace

bool Runtime::anything_dirty() const {
  return tables_.dirty_tables() > 0 || refcounts_.any_dirty() || l1_dirty_from_ < l1_dirty_end_ ||
         l1_moved_ || header_changed_ || !freed_.empty();
}

Task<Result<void>> Runtime::sync(IoEngine& engine) {
  if (data_ == file_.get()) co_return co_await file_->sync(engine);
  TaskGroup both;
  both.add(file_->sync(engine));
  both.add(data_->sync(engine));
  co_return co_await both.all();
}

Task<Result<void>> Runtime::flush(IoEngine& engine) {
  if (options_.read_only) co_return Result<void>{};
  bool clean = false;
  uint64_t ticket = 0;
  {
    const std::scoped_lock guard(mutex_);
    clean = !anything_dirty() && commits_begun_ == commits_ended_;
    ticket = commits_begun_ + 1;
  }
  if (clean) co_return co_await sync(engine);
  co_await commit_lock_.lock(engine);
  bool covered = false;
  {
    const std::scoped_lock guard(mutex_);
    covered = commits_done_ >= ticket;  // one that was collected after we came
  }
  Result<void> done;
  if (!covered) done = co_await commit_locked(engine, !lazy_);
  commit_lock_.unlock();
  co_return done;
}

Task<Result<void>> Runtime::commit(IoEngine& engine, bool all) {
  co_await commit_lock_.lock(engine);
  const Result<void> done = co_await commit_locked(engine, all);
  commit_lock_.unlock();
  co_return done;
}

Task<Result<void>> Runtime::make_room(IoEngine& engine) {
  const auto crowded = [this] {
    const std::scoped_lock guard(mutex_);
    return tables_.crowded() || refcounts_.blocks().crowded() || freed_.size() >= kMostFreed;
  };
  if (!crowded()) co_return Result<void>{};
  co_await commit_lock_.lock(engine);
  Result<void> done;
  if (crowded()) done = co_await commit_locked(engine, true);
  commit_lock_.unlock();
  co_return done;
}

// What is allocated and not referred to yet stays uncounted in the file until it is: a process that dies
// between commits leaves no leaks. With the blocks' own writes in plan.writes[0], one each, as in
// plan.tables.
void Runtime::leave_out_unlinked(CommitPlan& plan) {
  const unsigned order = layout_.refcount_order;
  const uint64_t per_block = (layout_.cluster_size() * 8) >> order;
  std::map<uint64_t, size_t> collected;  // a block's place in the file, and its number in the plan
  for (size_t i = 0; i < plan.tables.size(); ++i) collected[plan.tables[i].table->offset] = i;
  for (const auto& [first, count] : unlinked_) {
    for (uint64_t cluster = first; cluster < first + count; ++cluster) {
      const auto found = collected.find(refcounts_.table()[cluster / per_block]);
      if (found == collected.end()) continue;
      CommitPlan::Write& write = plan.writes[0][found->second];
      const TablePtr& block = plan.tables[found->second].table;
      const uint64_t index = cluster % per_block;
      const uint64_t skipped = ((write.offset - block->offset) * 8) >> order;
      if (index < skipped || index - skipped >= (write.bytes.size() * 8) >> order) continue;
      store_refcount(write.bytes, order, index - skipped, 0);
      const uint64_t bits = uint64_t{1} << order;
      refcounts_.blocks().mark_dirty(*block, index * bits / 8, ((index + 1) * bits + 7) / 8);
    }
  }
}

void Runtime::collect(CommitPlan& plan, bool all) {
  if (all) {
    for (const TablePtr& block : refcounts_.blocks().all_dirty()) {
      plan.tables.push_back({&refcounts_.blocks(), block, block->dirty_from, block->dirty_end});
      plan.writes[0].push_back(part_of(*block, block->dirty_from, block->dirty_end));
      refcounts_.blocks().mark_clean(*block);
    }
    leave_out_unlinked(plan);
    plan.refcounts = refcounts_.take_changes();
    if (plan.refcounts.moved) {
      plan.writes[0].push_back(
          entries_of(refcounts_.table(), refcounts_.table_offset(), 0, refcounts_.table().size()));
      header_.refcount_table_offset = refcounts_.table_offset();
      header_.refcount_table_clusters = static_cast<uint32_t>(refcounts_.table_clusters());
      plan.names_refcounts = true;
    } else if (plan.refcounts.any()) {
      plan.writes[1].push_back(entries_of(refcounts_.table(), refcounts_.table_offset(), plan.refcounts.first,
                                          plan.refcounts.end));
    }
  }
  for (const TablePtr& table : tables_.all_dirty()) {
    plan.tables.push_back({&tables_, table, table->dirty_from, table->dirty_end});
    plan.writes[table->fresh ? 0 : 2].push_back(part_of(*table, table->dirty_from, table->dirty_end));
    tables_.mark_clean(*table);
  }
  plan.l1_moved = std::exchange(l1_moved_, false);
  plan.l1_from = std::exchange(l1_dirty_from_, 0);
  plan.l1_end = std::exchange(l1_dirty_end_, 0);
  if (plan.l1_moved) {
    plan.writes[0].push_back(entries_of(l1_, header_.l1_offset, 0, l1_.size()));
  } else if (plan.l1_from < plan.l1_end) {
    plan.writes[2].push_back(entries_of(l1_, header_.l1_offset, plan.l1_from, plan.l1_end));
  }
  header_changed_ = false;
  plan.header = header_;
  plan.freed = std::exchange(freed_, {});
}

// `phase`: the one that failed, from 0.
void Runtime::restore(CommitPlan& plan, unsigned phase) {
  for (const CommitPlan::Cleaned& table : plan.tables) {
    table.cache->mark_dirty(*table.table, table.from, table.end);
  }
  refcounts_.restore(plan.refcounts, phase >= 1);
  if (plan.l1_moved && phase < 2) {
    l1_moved_ = true;
  } else if (plan.l1_moved) {
    // The header may name it by now: others read it, and its entries wait for their tables.
    mark_l1(0);
    mark_l1(l1_.size() - 1);
  } else if (plan.l1_from < plan.l1_end) {
    mark_l1(plan.l1_from);
    mark_l1(plan.l1_end - 1);
  }
  header_changed_ = true;
  freed_.insert(freed_.begin(), plan.freed.begin(), plan.freed.end());
}

Task<Result<void>> Runtime::commit_phases(IoEngine& engine, CommitPlan& plan, unsigned& phase) {
  Result<void> done = cover_with_file(used_bytes());
  if (!done) co_return done;
  done = co_await write_all(engine, *file_, plan.writes[0]);
  if (done) done = co_await sync(engine);
  if (!done) co_return done;

  phase = 1;
  if (!plan.writes[1].empty() || plan.names_refcounts) {
    done = co_await write_all(engine, *file_, plan.writes[1]);
    if (done && plan.names_refcounts) {
      Header named = on_disk_;
      named.refcount_table_offset = plan.header.refcount_table_offset;
      named.refcount_table_clusters = plan.header.refcount_table_clusters;
      done = co_await write_header(engine, named);
    }
    if (done) done = co_await file_->sync(engine);
    if (!done) co_return done;
  }

  phase = 2;
  {
    const std::scoped_lock guard(mutex_);
    for (const CommitPlan::Cleaned& table : plan.tables) table.table->fresh = false;
  }
  const bool header = !same_header(plan.header, on_disk_);
  if (plan.writes[2].empty() && !header) co_return done;
  done = co_await write_all(engine, *file_, plan.writes[2]);
  if (done && header) done = co_await write_header(engine, plan.header);
  if (done) done = co_await file_->sync(engine);
  co_return done;
}

Task<Result<void>> Runtime::commit_locked(IoEngine& engine, bool all) {
  if (corrupt_.load(std::memory_order_acquire))
    co_return fail(Errc::corrupt, "the image is damaged: it takes no more writes");
  CommitPlan plan;
  uint64_t number = 0;
  {
    const std::scoped_lock guard(mutex_);
    collect(plan, all);
    number = ++commits_begun_;
  }
  unsigned phase = 0;
  const Result<void> done = co_await commit_phases(engine, plan, phase);
  {
    const std::scoped_lock guard(mutex_);
    if (done) {
      commits_done_ = number;
      for (const HostRun& old : plan.refcounts.old_tables) {
        metadata_.erase_range(old.first, old.count);
        plan.freed.push_back({old.first, old.count, false});
      }
    } else {
      restore(plan, phase);
    }
    commits_ended_ = number;
  }
  if (!done) co_return done;
  co_await apply_freed(engine, plan);
  co_return done;
}

// Phase 4: nothing on disk refers to these any more.
Task<void> Runtime::apply_freed(IoEngine& engine, CommitPlan& plan) {
  while (!plan.freed.empty()) {
    Freed& next = plan.freed.front();
    const Result<void> lowered = co_await lower_freed(engine, next);
    if (!lowered && lowered.error().code == Errc::corrupt) {
      corrupt_.store(true, std::memory_order_release);
      Header damaged = on_disk_;
      if (damaged.version >= 3) damaged.incompatible |= kIncompatCorrupt;
      const Result<void> said = co_await write_header(engine, damaged);
      static_cast<void>(said);  // what can be done has been
      const std::scoped_lock guard(mutex_);
      header_.incompatible = on_disk_.incompatible;
      co_return;
    }
    if (!lowered) {  // a block that cannot be read now: another time
      const std::scoped_lock guard(mutex_);
      freed_.insert(freed_.begin(), plan.freed.begin(), plan.freed.end());
      co_return;
    }
    plan.freed.pop_front();
  }
}

// As far as it comes, it takes away from `freed`.
Task<Result<void>> Runtime::lower_freed(IoEngine& engine, Freed& freed) {
  while (freed.count > 0) {
    // How many are nobody else's: their space goes before anybody can take them.
    uint64_t alone = 0;
    auto count = [this, &freed, &alone]() -> Attempt<void> {
      for (; alone < freed.count; ++alone) {
        const auto counted = refcounts_.count_of(freed.first + alone);
        if (!counted) return std::unexpected(counted.error());
        if (metadata_.overlaps(freed.first + alone, 1))
          return give_up(Errc::corrupt, "metadata was referred to as data");
        if (*counted != 1) break;
        // One that others may have soon is nothing to add compressed data to.
        if (compressed_tail_ >> layout_.cluster_bits == freed.first + alone) compressed_tail_ = 0;
      }
      return {};
    };
    Result<void> done = co_await attempt<void>(engine, count);
    if (!done) co_return done;
    if (alone > 0 && freed.discard && options_.discard) {
      const Result<void> hint =
          co_await file_->discard(engine, freed.first << layout_.cluster_bits, alone << layout_.cluster_bits);
      static_cast<void>(hint);
    }
    const uint64_t end = freed.first + std::max<uint64_t>(alone, 1);
    auto lower = [this, &freed, end]() -> Attempt<void> {
      for (; freed.first < end; ++freed.first, --freed.count) {
        const auto lowered = refcounts_.lower(freed.first);
        if (!lowered) return lowered;
      }
      return {};
    };
    done = co_await attempt<void>(engine, lower);
    if (!done) co_return done;
  }
  co_return Result<void>{};
}

Task<Result<void>> Runtime::close(IoEngine& engine) {
  if (options_.read_only) co_return Result<void>{};
  for (unsigned i = 0; i < kMostCommits; ++i) {
    const Result<void> done = co_await commit(engine, true);
    if (!done) co_return done;
    const std::scoped_lock guard(mutex_);
    if (!anything_dirty()) break;
  }
  Result<void> trimmed = co_await trim_file(engine);
  if (!trimmed) co_return trimmed;
  co_return co_await mark_closed(engine);
}

// Gives back what the file was grown ahead of its use.
Task<Result<void>> Runtime::trim_file(IoEngine& engine) {
  if (file_->is_block_device() || !grown_.load(std::memory_order_acquire)) co_return Result<void>{};
  uint64_t end = used_bytes() >> layout_.cluster_bits;
  auto find = [this, &end]() -> Attempt<void> {
    for (; end > 0; --end) {
      const auto count = refcounts_.count_of(end - 1);
      if (!count) return std::unexpected(count.error());
      if (*count != 0) break;
    }
    return {};
  };
  const Result<void> found = co_await attempt<void>(engine, find);
  if (!found) co_return found;
  if (end << layout_.cluster_bits >= file_->size()) co_return Result<void>{};
  co_return file_->resize(end << layout_.cluster_bits);
}

}  // namespace minivmm::qcow2
