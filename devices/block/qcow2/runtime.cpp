#include "devices/block/qcow2/runtime.h"

#include <algorithm>

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kMostTableCache = uint64_t{32} << 20;
constexpr uint64_t kLeastGrowth = uint64_t{16} << 20;  // of the file, bytes; less for a small disk
constexpr uint64_t kSmallGrowth = uint64_t{64} << 10;
constexpr uint64_t kMostGrowth = uint64_t{1} << 30;

uint64_t table_cache_bytes(const Header& header, uint64_t wanted) {
  if (wanted != 0) return wanted;
  return TableCache::bytes_for(header.l1_entries_needed(), header.cluster_size(), kMostTableCache);
}

}  // namespace

Runtime::Runtime(Start start)
    : layout_(start.header),
      file_(std::move(start.file)),
      options_(std::move(start.options)),
      data_(options_.data_file ? options_.data_file.get() : file_.get()),
      data_raw_(layout_.data_file && (start.header.autoclear & kAutoclearDataFileRaw) != 0),
      lazy_((start.header.compatible & kCompatLazyRefcounts) != 0),
      compression_(start.header.compression),
      on_disk_(start.header),
      first_sector_(start.first_sector),
      capacity_((start.header.size + kSectorSize - 1) / kSectorSize * kSectorSize),
      in_use_(!lazy_),
      decompressed_(layout_.cluster_size()),
      header_(std::move(start.header)),
      l1_(std::move(start.l1)),
      metadata_(std::move(start.metadata)),
      refcounts_(layout_, metadata_, std::move(start.refcounts)),
      tables_(layout_.cluster_size(), table_cache_bytes(header_, options_.cache_bytes)),
      data_end_(options_.data_file ? options_.data_file->size() : 0) {}

Header Runtime::header() const {
  const std::scoped_lock guard(mutex_);
  return header_;
}

Task<Result<TablePtr>> Runtime::load(IoEngine& engine, Obstacle obstacle) {
  TablePtr table;
  bool ours = false;
  {
    const std::scoped_lock guard(mutex_);
    table = obstacle.cache->get(obstacle.table);
    if (table == nullptr) {
      table = obstacle.cache->begin_load(obstacle.table);
      ours = true;
    }
  }
  if (!ours) {
    // One that was made here was never loaded, and has nothing to wait for.
    {
      const std::scoped_lock guard(mutex_);
      if (!table->loading && table->status) co_return table;
    }
    co_await table->loaded.wait(engine);
    const std::scoped_lock guard(mutex_);
    if (!table->status) co_return std::unexpected(table->status.error());
    co_return table;
  }
  const iovec whole = piece(table->bytes.data(), table->bytes.size());
  const Result<void> read = co_await file_->read(engine, table->offset, std::span(&whole, 1));
  {
    const std::scoped_lock guard(mutex_);
    obstacle.cache->end_load(table, read);
  }
  table->loaded.set();
  if (!read) co_return std::unexpected(read.error());
  co_return table;
}

Attempt<Table*> Runtime::table_for(uint64_t guest) {
  const uint64_t index = layout_.l1_index(guest);
  if (index >= l1_.size()) return give_up(Errc::corrupt, "the L1 table is too small for the image");
  const uint64_t offset = l1_[index] & kOffsetMask;
  if (offset == 0) return nullptr;
  if (Table* table = tables_.find(offset)) return table;
  if (tables_.get(offset) == nullptr && (layout_.in_cluster(offset) != 0 || offset >= file_->size()))
    return give_up(Errc::corrupt, "an L1 entry points to where no L2 table can be");
  return missing(tables_, offset);
}

void Runtime::mark_l1(uint64_t index) {
  if (l1_dirty_from_ >= l1_dirty_end_) {
    l1_dirty_from_ = index;
    l1_dirty_end_ = index + 1;
  } else {
    l1_dirty_from_ = std::min(l1_dirty_from_, index);
    l1_dirty_end_ = std::max(l1_dirty_end_, index + 1);
  }
}

// The table for `guest` as one of our own that may be changed: made where there is none, copied where a
// snapshot has it too.
Attempt<Table*> Runtime::writable_table(uint64_t guest) {
  const auto found = table_for(guest);
  if (!found) return found;
  const uint64_t index = layout_.l1_index(guest);
  if (*found != nullptr && (l1_[index] & kCopied) != 0) return found;
  TablePtr shared;
  if (*found != nullptr) shared = tables_.get((*found)->offset);
  const auto cluster = refcounts_.allocate(1);
  if (!cluster) return std::unexpected(cluster.error());
  const TablePtr own = tables_.create(cluster->first << layout_.cluster_bits);
  if (shared != nullptr) {
    own->bytes = shared->bytes;
    // What both refer to is not ours alone.
    for (uint64_t i = 0; i < uint64_t{1} << layout_.l2_bits; ++i) {
      Entry entry = load_entry(layout_, own->bytes, i);
      if ((entry.word & (kCopied | kCompressed)) != kCopied) continue;
      entry.word &= ~kCopied;
      store_entry(layout_, own->bytes, i, entry);
    }
    const uint64_t old = shared->offset >> layout_.cluster_bits;
    metadata_.erase(old);
    tables_.drop(shared->offset);
    release_clusters(old, 1, false);
  }
  l1_[index] = own->offset | kCopied;
  mark_l1(index);
  metadata_.insert(cluster->first);
  return own.get();
}

Attempt<Run> Runtime::lookup(uint64_t guest, uint64_t length, Purpose purpose) {
  const auto table = table_for(guest);
  if (!table) return std::unexpected(table.error());
  if (*table == nullptr) {
    uint64_t end = layout_.table_end(guest);
    for (uint64_t i = layout_.l1_index(guest) + 1; end < guest + length && i < l1_.size() && l1_[i] == 0; ++i)
      end += layout_.table_reach();
    Run nothing;
    nothing.length = std::min(length, end - guest);
    return nothing;
  }
  auto run = find_run(layout_, (*table)->bytes, guest, length, purpose);
  if (!run) return give_up(run.error());
  if (!run->has_host || layout_.data_file) return *run;
  const uint64_t file_end = layout_.cluster_ceil(file_->size());
  if (run->host >= file_end) return give_up(Errc::corrupt, "an L2 entry points past the end of the file");
  run->length = std::min(run->length, file_end - run->host);
  return *run;
}

Task<Result<Run>> Runtime::map(IoEngine& engine, uint64_t guest, uint64_t length, Purpose purpose) {
  auto look = [this, guest, length, purpose] { return lookup(guest, length, purpose); };
  return attempt<Run>(engine, look);
}

Result<void> Runtime::may_write() const {
  if (options_.read_only) return fail(Errc::unsupported, "the image is open for reading only");
  if (corrupt_.load(std::memory_order_acquire))
    return fail(Errc::corrupt, "the image is damaged: it takes no more writes");
  return {};
}

Result<void> Runtime::check_target(uint64_t host, uint64_t length) const {
  if (layout_.data_file) return {};
  const uint64_t first = host >> layout_.cluster_bits;
  const uint64_t last = (host + length - 1) >> layout_.cluster_bits;
  if (metadata_.overlaps(first, last - first + 1))
    return fail(Errc::corrupt, "an L2 entry says that data lies where metadata is");
  return {};
}

Result<void> Runtime::cover_with_file(uint64_t end) {
  if (end <= file_->size()) return {};
  if (file_->is_block_device()) return fail(Errc::no_space, "the device that the image is on is full");
  const std::scoped_lock guard(growing_);
  const uint64_t size = file_->size();
  if (end <= size) return {};
  grown_.store(true, std::memory_order_release);
  // In large steps: a file that grows with each write has its size written with each sync.
  const uint64_t step =
      std::min(std::clamp(size / 4, kLeastGrowth, kMostGrowth), capacity() / 4 + kSmallGrowth);
  if (file_->resize(layout_.cluster_ceil(end + step))) return {};
  return file_->resize(end);  // past a limit on the size of files, perhaps
}

uint64_t Runtime::used_bytes() const {
  const std::scoped_lock guard(mutex_);
  return refcounts_.used_end() << layout_.cluster_bits;
}

void Runtime::set_entry(Table& table, uint64_t guest, const Entry& entry) {
  const uint64_t index = layout_.l2_index(guest);
  store_entry(layout_, table.bytes, index, entry);
  tables_.mark_dirty(table, index * layout_.entry_bytes, (index + 1) * layout_.entry_bytes);
}

void Runtime::release_clusters(uint64_t first, uint64_t count, bool discard) {
  if (!freed_.empty() && freed_.back().discard == discard &&
      freed_.back().first + freed_.back().count == first) {
    freed_.back().count += count;
  } else {
    freed_.push_back({first, count, discard});
  }
}

void Runtime::release(const Entry& entry, bool discard) {
  if (layout_.data_file) return;  // its clusters are nobody else's, and are not counted
  if ((entry.word & kCompressed) != 0) {
    const CompressedRun run = decode_compressed(entry.word, layout_.cluster_bits);
    const uint64_t first = run.offset >> layout_.cluster_bits;
    const uint64_t last = (run.offset + run.bytes - 1) >> layout_.cluster_bits;
    decompressed_.forget(entry.word);
    release_clusters(first, last - first + 1, discard);
  } else if ((entry.word & kOffsetMask) != 0) {
    release_clusters((entry.word & kOffsetMask) >> layout_.cluster_bits, 1, discard);
  }
}

Task<void> Runtime::give_back(IoEngine& engine, HostRun run) {
  if (layout_.data_file) co_return;
  uint64_t done = 0;
  auto lower = [this, run, &done]() -> Attempt<void> {
    unlinked_.erase(run.first);
    for (; done < run.count; ++done) {
      const auto lowered = refcounts_.lower(run.first + done);
      if (!lowered) return lowered;
    }
    return {};
  };
  // Where that fails they stay counted: a leak.
  const Result<void> ignored = co_await attempt<void>(engine, lower);
  static_cast<void>(ignored);
}

}  // namespace minivmm::qcow2
