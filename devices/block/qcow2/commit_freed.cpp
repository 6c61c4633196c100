// Clusters that lost a reference: their counts in the file (a commit's phase 4), then in memory.

#include <algorithm>
#include <map>
#include <set>

#include "devices/block/qcow2/commit.h"
#include "devices/block/qcow2/counts_copy.h"

namespace minivmm::qcow2 {

namespace {

void append(std::deque<Freed>& to, const Freed& more) {
  if (!to.empty() && to.back().discard == more.discard && to.back().first + to.back().count == more.first) {
    to.back().count += more.count;
  } else {
    to.push_back(more);
  }
}

// Calls each(block's number, first cluster, count) for the parts of a range that one block counts each.
template <class Each>
void by_block(uint64_t first, uint64_t count, uint64_t per_block, Each each) {
  for (const uint64_t end = first + count; first < end;) {
    const uint64_t here = std::min(end, (first / per_block + 1) * per_block) - first;
    each(first / per_block, first, here);
    first += here;
  }
}

}  // namespace

// The blocks that count what was freed, and are not held yet.
std::vector<uint64_t> Runtime::counts_to_hold(const CommitPlan& plan) const {
  std::set<uint64_t> wanted;
  const auto add = [&](uint64_t index, uint64_t, uint64_t) {
    if (!plan.held.contains(index)) wanted.insert(index);
  };
  for (const Freed& freed : freed_) by_block(freed.first, freed.count, refcounts_.per_block(), add);
  for (const HostRun& old : refcounts_.changes().old_tables)
    by_block(old.first, old.count, refcounts_.per_block(), add);
  return {wanted.begin(), wanted.end()};
}

void Runtime::keep_held(Freed freed, CommitPlan& plan, std::deque<Freed>& held,
                        std::deque<Freed>& others) const {
  by_block(freed.first, freed.count, refcounts_.per_block(),
           [&](uint64_t index, uint64_t first, uint64_t count) {
             append(lazy_ || plan.held.contains(index) ? held : others, {first, count, freed.discard});
           });
}

// What cannot be lowered by this commit stays for the next one.
void Runtime::collect_lowered(CommitPlan& plan) {
  const std::deque<Freed> all = std::exchange(freed_, {});
  for (const Freed& freed : all) keep_held(freed, plan, plan.freed, freed_);
  if (lazy_) return;

  // What changes of each block, in bytes.
  struct Part {
    uint64_t from = ~uint64_t{0};
    uint64_t end = 0;
  };
  std::map<uint64_t, Part> parts;
  const unsigned order = layout_.refcount_order;
  const uint64_t per_block = refcounts_.per_block();
  const auto each_part = [&](const auto& visit) {
    for (const Freed& freed : plan.freed) {
      // Metadata that was referred to as data keeps its count: apply_freed() says so.
      if (metadata_.overlaps(freed.first, freed.count)) continue;
      by_block(freed.first, freed.count, per_block, visit);
    }
    for (const HostRun& old : plan.refcounts.old_tables) by_block(old.first, old.count, per_block, visit);
  };
  const auto is_held = [&](uint64_t index) {
    const auto found = plan.held.find(index);
    return found != plan.held.end() && found->second != nullptr;
  };
  each_part([&](uint64_t index, uint64_t first, uint64_t count) {
    if (!is_held(index)) return;
    Part& part = parts[index];
    part.from = std::min(part.from, ((first % per_block) << order) / 8);
    part.end = std::max(part.end, (((first % per_block + count) << order) + 7) / 8);
  });

  std::vector<BlockScript::Write>& writes = plan.writes(CommitPlan::lowered);
  writes.reserve(parts.size());
  std::map<uint64_t, CountsCopy> by_index;
  std::map<uint64_t, CountsCopy> by_place;
  for (const auto& [index, part] : parts) {
    const TablePtr& block = plan.held[index];
    writes.push_back(part_of(*block, part.from, part.end));
    by_index[index] = by_place[block->offset] = {block, &writes.back()};
  }
  leave_out_unlinked(by_place);
  each_part([&](uint64_t index, uint64_t first, uint64_t count) {
    const auto copy = by_index.find(index);
    if (copy == by_index.end()) return;
    for (uint64_t at = first % per_block; count > 0; ++at, --count) {
      const uint64_t before = copy->second.load(at, order);
      // 0: the image is damaged, as apply_freed() will find.
      if (before > 0) copy->second.store(at, order, before - 1);
    }
  });
}

// In memory: nothing on disk refers to these any more.
Task<void> Runtime::apply_freed(IoEngine& engine, CommitPlan& plan) {
  const auto lowered = lazy_ || !plan.ended(CommitPlan::lowered) ? Refcounts::Lowered::in_memory
                                                                 : Refcounts::Lowered::in_file_too;
  while (!plan.freed.empty()) {
    Freed& next = plan.freed.front();
    const Result<void> done = co_await lower_freed(engine, next, lowered);
    if (!done && done.error().code == Errc::corrupt) {
      corrupt_.store(true, std::memory_order_release);
      Header damaged = on_disk_;
      if (damaged.version >= 3) damaged.incompatible |= kIncompatCorrupt;
      const Result<void> said = co_await write_header(engine, damaged);
      static_cast<void>(said);  // what can be done has been
      const std::scoped_lock guard(mutex_);
      header_.incompatible = on_disk_.incompatible;
      co_return;
    }
    if (!done) {  // a block that cannot be read now (none that was held): another time
      const std::scoped_lock guard(mutex_);
      freed_.insert(freed_.begin(), plan.freed.begin(), plan.freed.end());
      co_return;
    }
    plan.freed.pop_front();
  }
}

// As far as it comes, it takes away from `freed`.
Task<Result<void>> Runtime::lower_freed(IoEngine& engine, Freed& freed, Refcounts::Lowered lowered) {
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
    auto lower = [this, &freed, end, lowered]() -> Attempt<void> {
      for (; freed.first < end; ++freed.first, --freed.count) {
        const auto one = refcounts_.lower(freed.first, lowered);
        if (!one) return one;
      }
      return {};
    };
    done = co_await attempt<void>(engine, lower);
    if (!done) co_return done;
  }
  co_return Result<void>{};
}

}  // namespace minivmm::qcow2
