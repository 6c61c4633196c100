// Writing: in place where the clusters are ours alone, into new ones (with what has to be copied around the
// data) where not. Entries are set when the data is in the file.

#include <algorithm>

#include "devices/block/qcow2/runtime.h"
#include "devices/block/qcow2/segment.h"
#include "devices/block/task_group.h"

namespace minivmm::qcow2 {

namespace {

constexpr unsigned kMostParts = 64;             // of one request, in flight together
constexpr uint64_t kMostZeroBytes = 128 << 10;  // written as data; more is left to the file system

}  // namespace

Task<Result<void>> Runtime::write(IoEngine& engine, BlockRequest request) {
  const uint64_t first = request.offset >> layout_.cluster_bits;
  const uint64_t last = (request.offset + request.length - 1) >> layout_.cluster_bits;
  if (write_now(request, first, last)) co_return Result<void>{};
  co_return co_await write_locked(engine, request, first, last);
}

// In place, where that needs a single look at a table in memory, and neither the clusters' lock nor the file
// a wait. What was written of it when it says false may be written again.
bool Runtime::write_now(const BlockRequest& request, uint64_t first, uint64_t last) {
  ClusterLock::Hold hold(locks_);
  if (!hold.try_take(first, last, ClusterLock::Mode::shared)) return false;
  uint64_t host = 0;
  {
    const std::scoped_lock guard(mutex_);
    const auto run = lookup(request.offset, request.length, Purpose::write);
    if (!run || run->length != request.length || !run->in_place() || !check_target(run->host, run->length))
      return false;
    host = run->host;
  }
  return data_->write_now(host, request.length, request.data);
}

Task<Result<void>> Runtime::write_locked(IoEngine& engine, BlockRequest request, uint64_t first,
                                         uint64_t last) {
  Result<void> ready = co_await make_room(engine);
  if (!ready) co_return ready;
  {
    ClusterLock::Hold hold(locks_);
    co_await hold.take(engine, first, last, ClusterLock::Mode::shared);
    const Result<bool> done =
        co_await write_in_place(engine, request.offset, request.length, request.data, request.stop);
    if (!done) co_return std::unexpected(done.error());
    if (*done) co_return Result<void>{};
  }
  ready = co_await mark_in_use(engine);
  if (!ready) co_return ready;
  ClusterLock::Hold hold(locks_);
  co_await hold.take(engine, first, last, ClusterLock::Mode::exclusive);
  co_return co_await write_mapped(engine, request.offset, request.length, request.data, request.stop);
}

Task<Result<bool>> Runtime::write_in_place(IoEngine& engine, uint64_t guest, uint64_t length,
                                           std::span<const iovec> pieces, const StopFlag* stop) {
  std::vector<Run> runs;
  for (uint64_t done = 0; done < length;) {
    Run run;
    Obstacle obstacle;
    bool found = false;
    {
      const std::scoped_lock guard(mutex_);
      const auto got = lookup(guest + done, length - done, Purpose::write);
      if (got) {
        if (!got->in_place()) co_return false;
        const Result<void> safe = check_target(got->host, got->length);
        if (safe) {
          run = *got;
          found = true;
        } else {
          obstacle.error = safe.error();
        }
      } else {
        obstacle = got.error();
      }
    }
    if (!found && obstacle.cache != nullptr) {
      const Result<TablePtr> table = co_await load(engine, obstacle);
      if (!table) co_return std::unexpected(table.error());
      continue;
    }
    if (!found) {
      Error error = obstacle.error;
      if (error.code == Errc::corrupt) error = co_await found_corrupt(engine, error);
      co_return std::unexpected(error);
    }
    if (run.length == length) {
      const Result<void> written = co_await data_->write(engine, run.host, pieces, stop);
      if (!written) co_return std::unexpected(written.error());
      co_return true;
    }
    runs.push_back(run);
    done += run.length;
  }
  TaskGroup parts;
  uint64_t done = 0;
  Result<void> written;
  for (const Run& run : runs) {
    Pieces part = slice(pieces, done, run.length);
    done += run.length;
    parts.add(write_part(engine, run.host, std::move(part), stop));
    if (parts.running() >= kMostParts) {
      written = co_await parts.all();
      if (!written) break;
    }
  }
  written = co_await parts.all();
  if (!written) co_return std::unexpected(written.error());
  co_return true;
}

Task<Result<void>> Runtime::write_part(IoEngine& engine, uint64_t host, Pieces pieces, const StopFlag* stop) {
  co_return co_await data_->write(engine, host, pieces, stop);
}

Task<Result<void>> Runtime::write_mapped(IoEngine& engine, uint64_t guest, uint64_t length,
                                         std::span<const iovec> pieces, const StopFlag* stop) {
  for (uint64_t done = 0; done < length;) {
    if (stop != nullptr && stop->give_up()) co_return fail(Errc::closed, "the request was given up");
    const uint64_t at = guest + done;
    const uint64_t left = length - done;
    auto plan = [this, at, left] { return plan_segment(at, left); };
    const Result<Segment> segment = co_await attempt_change<Segment>(engine, plan);
    if (!segment) co_return std::unexpected(segment.error());
    const Pieces part = slice(pieces, done, segment->length);
    const Result<void> written = co_await write_segment(engine, *segment, at, part, stop);
    if (!written) {
      if (segment->kind == Segment::Kind::new_cluster) co_await give_back(engine, segment->clusters);
      co_return written;
    }
    if (segment->kind != Segment::Kind::in_place) link(*segment, at);
    done += segment->length;
  }
  co_return Result<void>{};
}

Attempt<Runtime::Segment> Runtime::plan_segment(uint64_t guest, uint64_t length) {
  Attempt<Run> run = lookup(guest, length, Purpose::write);
  if (!run) return std::unexpected(run.error());
  Segment segment;
  segment.length = run->length;
  segment.host = run->host;
  if (run->keeps_host()) {
    const Result<void> safe = check_target(run->host, run->length);
    if (!safe) return give_up(safe.error());
    if (run->in_place()) return segment;
  }
  const auto table = writable_table(guest);
  if (!table) return std::unexpected(table.error());
  if (!run->keeps_host()) return plan_new(guest, length, **table);
  // A copy of the table that was just made says of no cluster that it is ours alone: look again.
  const auto again = find_run(layout_, (*table)->bytes, guest, segment.length, Purpose::write);
  if (!again) return give_up(again.error());
  if (!again->keeps_host()) return plan_new(guest, length, **table);
  segment.kind = Segment::Kind::keep_cluster;
  segment.length = again->length;
  segment.begin = layout_.sub_floor(guest);
  segment.end = layout_.sub_ceil(guest + segment.length);
  segment.table = tables_.get((*table)->offset);
  return segment;
}

Attempt<Runtime::Segment> Runtime::plan_new(uint64_t guest, uint64_t length, Table& table) {
  const uint64_t start = layout_.cluster_floor(guest);
  const uint64_t end = std::min(guest + length, layout_.table_end(guest));
  // As many clusters as need new ones.
  uint64_t wanted = 0;
  for (uint64_t at = start; at < end; at += layout_.cluster_size(), ++wanted) {
    const Result<Run> run = describe(layout_, load_entry(layout_, table.bytes, layout_.l2_index(at)), 0);
    if (!run) {
      if (wanted == 0) return give_up(run.error());
      break;
    }
    if (run->keeps_host()) break;
  }
  if (wanted == 0) return give_up(Errc::corrupt, "a subcluster is in two states at once");
  Segment segment;
  segment.kind = Segment::Kind::new_cluster;
  const TablePtr held = tables_.get(table.offset);
  if (layout_.data_file) {
    segment.clusters = {start >> layout_.cluster_bits, wanted, start >= data_end_};
    data_end_ = std::max(data_end_, start + (wanted << layout_.cluster_bits));
  } else {
    const auto clusters = refcounts_.allocate(wanted);
    if (!clusters) return std::unexpected(clusters.error());
    segment.clusters = *clusters;
    unlinked_[clusters->first] = clusters->count;
  }
  segment.table = held;
  segment.length = std::min(end, start + (segment.clusters.count << layout_.cluster_bits)) - guest;
  segment.host = (segment.clusters.first << layout_.cluster_bits) + layout_.in_cluster(guest);
  // What the old clusters hold must come along; where they hold nothing, a part of them is enough.
  const auto holds_data = [&](uint64_t at) {
    const Entry entry = load_entry(layout_, table.bytes, layout_.l2_index(at));
    return !layout_.extended || (entry.word & kCompressed) != 0 || (entry.bitmap & kAllSubclusters) != 0;
  };
  const uint64_t last = guest + segment.length - 1;
  segment.begin = holds_data(guest) ? start : layout_.sub_floor(guest);
  segment.end = holds_data(last) ? layout_.cluster_ceil(last + 1) : layout_.sub_ceil(last + 1);
  return segment;
}

Task<Result<void>> Runtime::read_around(IoEngine& engine, Fill& fill, const StopFlag* stop) {
  const Result<bool> zero = co_await reads_zero(engine, fill.guest, fill.length);
  if (!zero) co_return std::unexpected(zero.error());
  fill.zero = *zero;
  if (fill.zero) co_return Result<void>{};
  fill.bytes.resize(fill.length);
  const iovec whole = piece(fill.bytes.data(), fill.length);
  co_return co_await read_mapped(engine, fill.guest, fill.length, std::span(&whole, 1), stop);
}

Task<Result<void>> Runtime::write_segment(IoEngine& engine, const Segment& segment, uint64_t guest,
                                          std::span<const iovec> pieces, const StopFlag* stop) {
  if (segment.kind == Segment::Kind::in_place)
    co_return co_await data_->write(engine, segment.host, pieces, stop);
  const uint64_t guest_end = guest + segment.length;
  Fill head{segment.begin, guest - segment.begin, true, {}};
  Fill tail{guest_end, segment.end - guest_end, true, {}};
  {
    TaskGroup around;
    if (head.length > 0) around.add(read_around(engine, head, stop));
    if (tail.length > 0) around.add(read_around(engine, tail, stop));
    const Result<void> read = co_await around.all();
    if (!read) co_return read;
  }
  uint64_t host = segment.host;
  if (!layout_.data_file) {
    const Result<void> covered = cover_with_file(layout_.cluster_ceil(host + segment.length));
    if (!covered) co_return covered;
  }
  TaskGroup parts;
  Pieces whole;
  const bool fresh = segment.kind == Segment::Kind::new_cluster && segment.clusters.fresh;
  for (const Fill* fill : {&head, &tail}) {
    const bool before = fill == &head;
    if (!before) append(whole, Pieces(pieces.begin(), pieces.end()));
    if (fill->length == 0 || (fill->zero && fresh)) continue;
    if (fill->zero && fill->length > kMostZeroBytes) {
      const uint64_t at = before ? segment.host - fill->length : segment.host + segment.length;
      parts.add(data_->write_zeroes(engine, at, fill->length, false));
      continue;
    }
    if (before) host -= fill->length;
    if (fill->zero) {
      append_zeroes(whole, fill->length);
    } else {
      // Only read from.
      whole.push_back(piece(const_cast<std::byte*>(fill->bytes.data()), fill->length));
    }
  }
  parts.add(data_->write(engine, host, whole, stop));
  co_return co_await parts.all();
}

Entry Runtime::linked(const Segment& segment, const Entry& old, uint64_t cluster) const {
  const bool fresh = segment.kind == Segment::Kind::new_cluster;
  Entry entry;
  if (fresh) {
    const uint64_t index = (cluster - layout_.cluster_floor(segment.begin)) >> layout_.cluster_bits;
    entry.word = ((segment.clusters.first + index) << layout_.cluster_bits) | kCopied;
  } else {
    entry.word = old.word & ~(layout_.extended ? 0 : kZero);
  }
  if (!layout_.extended) return entry;
  const uint64_t from = std::max(segment.begin, cluster);
  const uint64_t end = std::min(segment.end, cluster + layout_.cluster_size());
  const auto first = static_cast<unsigned>((from - cluster) >> layout_.sub_bits);
  const auto stop = static_cast<unsigned>((end - cluster) >> layout_.sub_bits);
  const uint64_t data = subcluster_bits(first, stop);
  const uint64_t before = (old.word & kCompressed) != 0 ? 0 : old.bitmap;
  entry.bitmap = (before & ~(data << kSubclusters)) | data;
  return entry;
}

void Runtime::link(const Segment& segment, uint64_t guest) {
  const std::scoped_lock guard(mutex_);
  if (segment.kind == Segment::Kind::new_cluster) unlinked_.erase(segment.clusters.first);
  for (uint64_t at = layout_.cluster_floor(guest); at < guest + segment.length;
       at += layout_.cluster_size()) {
    const Entry old = load_entry(layout_, segment.table->bytes, layout_.l2_index(at));
    if (segment.kind == Segment::Kind::new_cluster) release(old, false);
    set_entry(*segment.table, at, linked(segment, old, at));
  }
}

}  // namespace minivmm::qcow2
