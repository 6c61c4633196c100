// Bringing what is in memory to the file, in an order that leaves a sound image at every instant.

#include "devices/block/qcow2/commit.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "devices/block/qcow2/counts_copy.h"
#include "devices/block/task_group.h"

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kWriteUnit = 4096;                    // bytes; what is written of a table
constexpr size_t kMostFreed = 65536;                     // ranges that wait for a commit
constexpr uint64_t kMostHeldBytes = uint64_t{64} << 20;  // of refcount blocks, by one commit
constexpr uint64_t kLeastHeld = 4;
constexpr unsigned kMostCommits = 8;  // at close: each may lower counts, which are for the next one

BlockScript::Write entries_of(const std::vector<uint64_t>& table, uint64_t offset, uint64_t from,
                              uint64_t end) {
  constexpr uint64_t kUnit = kWriteUnit / 8;
  from = from / kUnit * kUnit;
  end = std::min<uint64_t>((end + kUnit - 1) / kUnit * kUnit, table.size());
  BlockScript::Write write{offset + from * 8, std::vector<std::byte>((end - from) * 8)};
  for (uint64_t i = from; i < end; ++i) store_be64(write.bytes.data() + (i - from) * 8, table[i]);
  return write;
}

}  // namespace

BlockScript::Write part_of(const Table& table, uint64_t from, uint64_t end) {
  from = from / kWriteUnit * kWriteUnit;
  end = std::min<uint64_t>((end + kWriteUnit - 1) / kWriteUnit * kWriteUnit, table.bytes.size());
  const std::byte* bytes = table.bytes.data();
  return {table.offset + from, {bytes + from, bytes + end}};
}

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
// between commits leaves no leaks. `copies`: what is to be written of the blocks, by their places.
void Runtime::leave_out_unlinked(const std::map<uint64_t, CountsCopy>& copies) {
  const unsigned order = layout_.refcount_order;
  const uint64_t per_block = refcounts_.per_block();
  const uint64_t bits = uint64_t{1} << order;
  for (const auto& [first, count] : unlinked_) {
    for (uint64_t cluster = first; cluster < first + count; ++cluster) {
      const auto found = copies.find(refcounts_.table()[cluster / per_block]);
      if (found == copies.end()) continue;
      const uint64_t index = cluster % per_block;
      if (!found->second.holds(index, order)) continue;
      found->second.store(index, order, 0);
      refcounts_.blocks().mark_dirty(*found->second.block, index * bits / 8, ((index + 1) * bits + 7) / 8);
    }
  }
}

// Phases 1 and 2, as far as they are about counts.
void Runtime::collect_counts(CommitPlan& plan) {
  std::vector<BlockScript::Write>& writes = plan.writes(CommitPlan::counts);
  for (const TablePtr& block : refcounts_.blocks().all_dirty()) {
    plan.tables.push_back({&refcounts_.blocks(), block, block->dirty_from, block->dirty_end});
    writes.push_back(part_of(*block, block->dirty_from, block->dirty_end));
    refcounts_.blocks().mark_clean(*block);
  }
  std::map<uint64_t, CountsCopy> copies;
  for (size_t i = 0; i < writes.size(); ++i)
    copies[plan.tables[i].table->offset] = {plan.tables[i].table, &writes[i]};
  leave_out_unlinked(copies);

  plan.refcounts = refcounts_.take_changes();
  const std::vector<uint64_t>& table = refcounts_.table();
  if (plan.refcounts.moved) {
    writes.push_back(entries_of(table, refcounts_.table_offset(), 0, table.size()));
    header_.refcount_table_offset = refcounts_.table_offset();
    header_.refcount_table_clusters = static_cast<uint32_t>(refcounts_.table_clusters());
  } else if (plan.refcounts.any()) {
    plan.writes(CommitPlan::blocks)
        .push_back(entries_of(table, refcounts_.table_offset(), plan.refcounts.first, plan.refcounts.end));
  }
}

// With what is on disk, which commit_lock_ guards.
void Runtime::collect_headers(CommitPlan& plan) {
  const auto write = [this, &plan](CommitPlan::Phase phase, const Header& header) {
    const std::array<std::byte, kSectorSize> sector = header_sector(header);
    plan.writes(phase).push_back({0, {sector.begin(), sector.end()}});
  };
  header_changed_ = false;
  plan.header = header_;
  plan.named = on_disk_;
  plan.named.refcount_table_offset = plan.header.refcount_table_offset;
  plan.named.refcount_table_clusters = plan.header.refcount_table_clusters;
  if (!same_header(plan.named, on_disk_)) write(CommitPlan::table_header, plan.named);
  if (!same_header(plan.header, plan.named)) write(CommitPlan::header_sector, plan.header);
}

void Runtime::collect(CommitPlan& plan, bool all) {
  if (all) collect_counts(plan);
  for (const TablePtr& table : tables_.all_dirty()) {
    plan.tables.push_back({&tables_, table, table->dirty_from, table->dirty_end});
    plan.writes(table->fresh ? CommitPlan::counts : CommitPlan::references)
        .push_back(part_of(*table, table->dirty_from, table->dirty_end));
    tables_.mark_clean(*table);
  }
  plan.l1_moved = std::exchange(l1_moved_, false);
  plan.l1_from = std::exchange(l1_dirty_from_, 0);
  plan.l1_end = std::exchange(l1_dirty_end_, 0);
  if (plan.l1_moved) {
    plan.writes(CommitPlan::counts).push_back(entries_of(l1_, header_.l1_offset, 0, l1_.size()));
  } else if (plan.l1_from < plan.l1_end) {
    plan.writes(CommitPlan::references)
        .push_back(entries_of(l1_, header_.l1_offset, plan.l1_from, plan.l1_end));
  }
  collect_headers(plan);
  collect_lowered(plan);

  auto& phases = plan.script.phases;
  phases[CommitPlan::counts].sync = true;  // the data too
  for (const auto& [writes, header] : {std::pair{CommitPlan::blocks, CommitPlan::table_header},
                                       std::pair{CommitPlan::references, CommitPlan::header_sector}}) {
    phases[header].sync = !phases[writes].writes.empty() || !phases[header].writes.empty();
  }
  plan.script.whole = !lazy_;  // whose counts are made anew after a kill
}

// What the script has changed for good, however far it came.
void Runtime::took_place(CommitPlan& plan) {
  const auto header = [this, &plan](CommitPlan::Phase phase, Header& now) {
    if (plan.script.written <= phase || plan.writes(phase).empty()) return;
    std::ranges::copy(plan.writes(phase).front().bytes, first_sector_.begin());
    on_disk_ = std::move(now);
  };
  header(CommitPlan::table_header, plan.named);
  header(CommitPlan::header_sector, plan.header);
  if (!plan.began(CommitPlan::references)) return;
  for (const CommitPlan::Cleaned& table : plan.tables) table.table->fresh = false;
}

void Runtime::restore(CommitPlan& plan) {
  for (const CommitPlan::Cleaned& table : plan.tables) {
    table.cache->mark_dirty(*table.table, table.from, table.end);
  }
  refcounts_.restore(plan.refcounts, plan.began(CommitPlan::blocks));
  if (plan.l1_moved && !plan.began(CommitPlan::references)) {
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

// Collects the plan, once all is in memory that this takes; its number among the commits.
Task<uint64_t> Runtime::prepare(IoEngine& engine, CommitPlan& plan, bool all) {
  std::set<uint64_t> unreadable;
  for (;;) {
    std::vector<uint64_t> wanted;
    {
      const std::scoped_lock guard(mutex_);
      if (!lazy_) wanted = counts_to_hold(plan);
      std::erase_if(wanted, [&](uint64_t index) { return unreadable.contains(index); });
      const uint64_t most = std::max(kMostHeldBytes >> layout_.cluster_bits, kLeastHeld);
      plan.too_many = plan.held.size() + wanted.size() > most;
      wanted.resize(std::min<size_t>(wanted.size(), most - plan.held.size()));
      if (wanted.empty()) {
        collect(plan, all);
        co_return ++commits_begun_;
      }
    }
    for (const uint64_t index : wanted) {
      auto find = [this, index] { return refcounts_.block_at(index); };
      const Result<TablePtr> block = co_await attempt<TablePtr>(engine, find);
      if (!block && block.error().code != Errc::corrupt) {
        unreadable.insert(index);
      } else {
        plan.held[index] = block.value_or(nullptr);
      }
    }
  }
}

Task<Result<void>> Runtime::run_plan(IoEngine& engine, CommitPlan& plan) {
  Result<void> done = cover_with_file(used_bytes());
  if (done && data_ != file_.get()) done = co_await data_->sync(engine);
  if (done) done = co_await file_->run_script(engine, plan.script);
  co_return done;
}

Task<Result<bool>> Runtime::commit_once(IoEngine& engine, bool all) {
  CommitPlan plan;
  const uint64_t number = co_await prepare(engine, plan, all);
  const Result<void> ran = co_await run_plan(engine, plan);
  const bool done = plan.ended(CommitPlan::header_sector);
  {
    const std::scoped_lock guard(mutex_);
    took_place(plan);
    if (done) {
      commits_done_ = number;
      for (const HostRun& old : plan.refcounts.old_tables) {
        metadata_.erase_range(old.first, old.count);
        keep_held({old.first, old.count, false}, plan, plan.freed, freed_);
      }
    } else {
      restore(plan);
    }
    commits_ended_ = number;
  }
  if (!done) co_return std::unexpected(ran.error());
  co_await apply_freed(engine, plan);
  co_return plan.too_many;
}

Task<Result<void>> Runtime::commit_locked(IoEngine& engine, bool all) {
  for (;;) {
    if (corrupt_.load(std::memory_order_acquire))
      co_return fail(Errc::corrupt, "the image is damaged: it takes no more writes");
    const Result<bool> more = co_await commit_once(engine, all);
    if (!more) co_return std::unexpected(more.error());
    if (!*more) co_return Result<void>{};
  }
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
