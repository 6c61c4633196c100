// Zeroes and discards: by entries where the format can say it, by writing where not.
//
// | cluster                          | zeroes                               | discard                    |
// |----------------------------------|--------------------------------------|----------------------------|
// | nothing there, nothing below     | stays                                | stays                      |
// | version 3                        | zero flag; its space kept, or freed  | freed; zero flag if backed |
// | version 2, nothing below         | freed if it may be, else overwritten | freed                      |
// | version 2, something below       | overwritten                          | its space is, not its place|
// | external data file, raw          | the file's bytes                     | the file's bytes           |

#include <algorithm>

#include "devices/block/qcow2/runtime.h"

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kMostWritten = 1 << 20;  // zero bytes, at a time

}  // namespace

Task<Result<void>> Runtime::write_zeroes(IoEngine& engine, BlockRequest request) {
  const uint64_t end = request.offset + request.length;
  Result<void> ready = co_await mark_in_use(engine);
  if (!ready) co_return ready;
  ClusterLock::Hold hold(locks_);
  co_await hold.take(engine, request.offset >> layout_.cluster_bits, (end - 1) >> layout_.cluster_bits,
                     ClusterLock::Mode::exclusive);
  // Nobody sees what lies past the end: the last cluster is a whole one.
  const uint64_t whole = end == capacity() ? layout_.cluster_ceil(end) : end;
  co_return co_await zero_range(engine, request.offset, whole - request.offset,
                                request.may_unmap && options_.discard, request.stop);
}

Task<Result<void>> Runtime::zero_range(IoEngine& engine, uint64_t guest, uint64_t length, bool may_unmap,
                                       const StopFlag* stop) {
  const uint64_t end = guest + length;
  if (data_raw_) co_return co_await data_->write_zeroes(engine, guest, length, may_unmap);
  const uint64_t first = std::min(layout_.sub_ceil(guest), end);
  const uint64_t last = std::max(layout_.sub_floor(end), first);
  if (guest < first) {
    const Result<void> head = co_await zero_by_writing(engine, guest, first - guest, stop);
    if (!head) co_return head;
  }
  for (uint64_t at = first; at < last;) {
    if (stop != nullptr && stop->give_up()) co_return fail(Errc::closed, "the request was given up");
    const Result<void> room = co_await make_room(engine);
    if (!room) co_return room;
    if (!layout_.zero_flag) {
      const uint64_t here = std::min(last, layout_.table_end(at)) - at;
      const Result<void> zero = co_await zero_without_flag(engine, at, here, may_unmap, stop);
      if (!zero) co_return zero;
      at += here;
      continue;
    }
    auto set = [this, at, last, may_unmap] { return zero_entries(at, last, may_unmap); };
    const Result<uint64_t> done = co_await attempt_change<uint64_t>(engine, set);
    if (!done) co_return std::unexpected(done.error());
    if (*done > at) {
      // The space of an external data file is the file's own business.
      if (layout_.data_file && may_unmap) co_await discard_data(engine, at, *done - at);
      at = *done;
      continue;
    }
    // A part of a compressed cluster.
    const uint64_t here = std::min(last, layout_.cluster_floor(at) + layout_.cluster_size()) - at;
    const Result<void> zero = co_await zero_by_writing(engine, at, here, stop);
    if (!zero) co_return zero;
    at += here;
  }
  if (last < end) co_return co_await zero_by_writing(engine, last, end - last, stop);
  co_return Result<void>{};
}

Task<void> Runtime::discard_data(IoEngine& engine, uint64_t guest, uint64_t length) {
  const Result<void> hint = co_await data_->write_zeroes(engine, guest, length, true);
  static_cast<void>(hint);  // nothing depends on it
}

Task<Result<void>> Runtime::zero_by_writing(IoEngine& engine, uint64_t guest, uint64_t length,
                                            const StopFlag* stop) {
  while (length > 0) {
    const uint64_t here = std::min(length, kMostWritten);
    const Result<bool> zero = co_await reads_zero(engine, guest, here);
    if (!zero) co_return std::unexpected(zero.error());
    if (!*zero) {
      Pieces zeroes;
      append_zeroes(zeroes, here);
      const Result<void> written = co_await write_mapped(engine, guest, here, zeroes, stop);
      if (!written) co_return written;
    }
    guest += here;
    length -= here;
  }
  co_return Result<void>{};
}

// Version 3: whole subclusters, within one L2 table; how far it has come. Not at all: the first one is a part
// of a compressed cluster.
Attempt<uint64_t> Runtime::zero_entries(uint64_t guest, uint64_t end, bool may_unmap) {
  const auto found = table_for(guest);
  if (!found) return std::unexpected(found.error());
  if (*found == nullptr && !backed(guest)) {
    const auto nothing = lookup(guest, end - guest, Purpose::read);
    if (!nothing) return std::unexpected(nothing.error());
    return guest + nothing->length;
  }
  const auto table = writable_table(guest);
  if (!table) return std::unexpected(table.error());
  const uint64_t stop = std::min(end, layout_.table_end(guest));
  for (uint64_t at = guest; at < stop;) {
    const uint64_t cluster = layout_.cluster_floor(at);
    const uint64_t next = std::min(stop, cluster + layout_.cluster_size());
    const Entry old = load_entry(layout_, (*table)->bytes, layout_.l2_index(at));
    const Result<Run> run = describe(layout_, old, layout_.sub_index(at));
    if (!run) return give_up(run.error());
    const bool whole = at == cluster && next == cluster + layout_.cluster_size();
    Entry entry = old;
    if (whole) {
      const bool keep = run->keeps_host() && !may_unmap;
      const bool empty = !run->has_host && run->cover != Cover::compressed;
      if (empty && !backed(at)) {
        at = next;  // reads as zeroes already, whatever its bits say
        continue;
      }
      entry.word = keep ? (old.word & kOffsetMask) | kCopied : 0;
      if (layout_.extended) {
        entry.bitmap = kAllSubclusters << kSubclusters;
      } else {
        entry.word |= kZero;
      }
      if (!keep && !empty) release(old, may_unmap);
    } else if (run->cover == Cover::compressed) {
      return at;
    } else {
      const uint64_t bits =
          subcluster_bits(layout_.sub_index(at), static_cast<unsigned>((next - cluster) >> layout_.sub_bits));
      entry.bitmap = (old.bitmap & ~bits) | bits << kSubclusters;
    }
    if (entry.word != old.word || entry.bitmap != old.bitmap) set_entry(**table, at, entry);
    at = next;
  }
  return stop;
}

// Version 2, which has nothing to say "zeroes" with: whole clusters, within one L2 table.
Task<Result<void>> Runtime::zero_without_flag(IoEngine& engine, uint64_t guest, uint64_t length,
                                              bool may_unmap, const StopFlag* stop) {
  while (length > 0) {
    Result<Run> run = co_await map(engine, guest, length, Purpose::write);
    if (!run) co_return std::unexpected(run.error());
    uint64_t here = run->length;
    if (options_.backing != nullptr && guest < options_.backing->capacity())  // all backed, or nothing
      here = std::min(here, layout_.cluster_ceil(options_.backing->capacity()) - guest);
    Result<void> done;
    if (run->cover == Cover::unallocated && !backed(guest)) {
      // As it should be.
    } else if (!backed(guest) && (may_unmap || !run->in_place())) {
      const uint64_t end = guest + here;
      auto forget = [this, guest, end] { return discard_entries(guest, end, true); };
      const Result<uint64_t> gone = co_await attempt_change<uint64_t>(engine, forget);
      if (!gone) co_return std::unexpected(gone.error());
      here = *gone - guest;
    } else if (run->in_place()) {
      done = check_data(run->host, here);
      if (done) done = co_await data_->write_zeroes(engine, run->host, here, may_unmap);
    } else {
      done = co_await zero_by_writing(engine, guest, here, stop);
    }
    if (!done) co_return done;
    guest += here;
    length -= here;
  }
  co_return Result<void>{};
}

Result<void> Runtime::check_data(uint64_t host, uint64_t length) const {
  const std::scoped_lock guard(mutex_);
  return check_target(host, length);
}

Task<Result<void>> Runtime::discard(IoEngine& engine, BlockRequest request) {
  if (!options_.discard) co_return Result<void>{};
  const uint64_t end = request.offset + request.length;
  const uint64_t first = layout_.cluster_ceil(request.offset);
  const uint64_t last = end == capacity() ? layout_.cluster_ceil(end) : layout_.cluster_floor(end);
  if (first >= last) co_return Result<void>{};
  Result<void> ready = co_await mark_in_use(engine);
  if (!ready) co_return ready;
  ClusterLock::Hold hold(locks_);
  co_await hold.take(engine, first >> layout_.cluster_bits, (last - 1) >> layout_.cluster_bits,
                     ClusterLock::Mode::exclusive);
  if (data_raw_) co_return co_await data_->write_zeroes(engine, first, last - first, true);
  for (uint64_t at = first; at < last;) {
    if (request.stop != nullptr && request.stop->give_up())
      co_return fail(Errc::closed, "the request was given up");
    ready = co_await make_room(engine);
    if (!ready) co_return ready;
    if (!layout_.zero_flag && backed(at)) {
      const Result<uint64_t> done = co_await discard_in_place(engine, at, last - at);
      if (!done) co_return std::unexpected(done.error());
      at += *done;
      continue;
    }
    auto forget = [this, at, last] { return discard_entries(at, last, false); };
    const Result<uint64_t> done = co_await attempt_change<uint64_t>(engine, forget);
    if (!done) co_return std::unexpected(done.error());
    if (layout_.data_file) co_await discard_data(engine, at, *done - at);
    at = *done;
  }
  co_return Result<void>{};
}

// Whole clusters, within one L2 table, lose what they have; how far it has come. `forget`: also where
// something would show through.
Attempt<uint64_t> Runtime::discard_entries(uint64_t guest, uint64_t end, bool forget) {
  const auto found = table_for(guest);
  if (!found) return std::unexpected(found.error());
  if (*found == nullptr && (!backed(guest) || forget)) {
    const auto nothing = lookup(guest, end - guest, Purpose::read);
    if (!nothing) return std::unexpected(nothing.error());
    return guest + nothing->length;
  }
  const auto table = writable_table(guest);
  if (!table) return std::unexpected(table.error());
  const uint64_t stop = std::min(end, layout_.table_end(guest));
  for (uint64_t at = guest; at < stop; at += layout_.cluster_size()) {
    const Entry old = load_entry(layout_, (*table)->bytes, layout_.l2_index(at));
    Entry entry;
    if (backed(at) && !forget) {
      if (!layout_.zero_flag) return at;
      if (layout_.extended) {
        entry.bitmap = kAllSubclusters << kSubclusters;
      } else {
        entry.word = kZero;
      }
    }
    if (entry.word == old.word && entry.bitmap == old.bitmap) continue;
    const Result<Run> run = describe(layout_, old, 0);
    if (!run) return give_up(run.error());
    release(old, true);
    set_entry(**table, at, entry);
  }
  return stop;
}

// Version 2 over a backing file: the place stays, so that nothing old shows through; how many bytes are done.
Task<Result<uint64_t>> Runtime::discard_in_place(IoEngine& engine, uint64_t guest, uint64_t length) {
  const Result<Run> run = co_await map(engine, guest, length, Purpose::write);
  if (!run) co_return std::unexpected(run.error());
  if (run->in_place() && check_data(run->host, run->length)) {
    const Result<void> done = co_await data_->discard(engine, run->host, run->length);
    if (!done) co_return std::unexpected(done.error());
  }
  co_return run->length;
}

}  // namespace minivmm::qcow2
