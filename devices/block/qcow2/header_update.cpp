// The header on disk, which commit_lock_ guards: single fields, marks, the backing file's name.

#include <algorithm>

#include "devices/block/qcow2/bitmaps.h"
#include "devices/block/qcow2/header_rename.h"
#include "devices/block/qcow2/metadata_io.h"
#include "devices/block/qcow2/runtime.h"

namespace minivmm::qcow2 {

bool Runtime::same_header(const Header& a, const Header& b) {
  return a.size == b.size && a.l1_size == b.l1_size && a.l1_offset == b.l1_offset &&
         a.refcount_table_offset == b.refcount_table_offset &&
         a.refcount_table_clusters == b.refcount_table_clusters && a.incompatible == b.incompatible &&
         a.autoclear == b.autoclear;
}

// The fields that change while an image is open: within the first sector, as it stands on disk.
std::array<std::byte, kSectorSize> Runtime::header_sector(const Header& wanted) const {
  std::array<std::byte, kSectorSize> sector = first_sector_;
  store_be64(sector.data() + kFieldSize, wanted.size);
  store_be32(sector.data() + kFieldL1Size, wanted.l1_size);
  store_be64(sector.data() + kFieldL1Size + 4, wanted.l1_offset);
  store_be64(sector.data() + kFieldRefcountTableOffset, wanted.refcount_table_offset);
  store_be32(sector.data() + kFieldRefcountTableOffset + 8, wanted.refcount_table_clusters);
  if (wanted.version >= 3) {
    store_be64(sector.data() + kFieldIncompatible, wanted.incompatible);
    store_be64(sector.data() + kFieldAutoclear, wanted.autoclear);
  }
  return sector;
}

Task<Result<void>> Runtime::write_header(IoEngine& engine, Header wanted) {
  std::array<std::byte, kSectorSize> sector = header_sector(wanted);
  const iovec part = piece(sector.data(), sector.size());
  const Result<void> written = co_await file_->write(engine, 0, std::span(&part, 1));
  if (written) {
    first_sector_ = sector;
    on_disk_ = std::move(wanted);
  }
  co_return written;
}

// Lazy refcounts: from the first change on, the counts on disk are behind.
Task<Result<void>> Runtime::mark_in_use(IoEngine& engine) {
  if (in_use_.load(std::memory_order_acquire)) co_return Result<void>{};
  co_await commit_lock_.lock(engine);
  Result<void> done;
  if (!in_use_.load(std::memory_order_acquire)) {
    Header dirty = on_disk_;
    dirty.incompatible |= kIncompatDirty;
    done = co_await write_header(engine, dirty);
    if (done) done = co_await file_->sync(engine);
    if (done) {
      const std::scoped_lock guard(mutex_);
      header_.incompatible |= kIncompatDirty;
      in_use_.store(true, std::memory_order_release);
    }
  }
  commit_lock_.unlock();
  co_return done;
}

Task<Result<void>> Runtime::mark_closed(IoEngine& engine) {
  co_await commit_lock_.lock(engine);
  Result<void> done;
  if ((on_disk_.incompatible & kIncompatDirty) != 0) {
    Header clean = on_disk_;
    clean.incompatible &= ~kIncompatDirty;
    done = co_await write_header(engine, clean);
    if (done) {
      const std::scoped_lock guard(mutex_);
      header_.incompatible &= ~kIncompatDirty;
      in_use_.store(!lazy_, std::memory_order_release);
    }
  }
  if (done) done = co_await file_->sync(engine);
  commit_lock_.unlock();
  co_return done;
}

// "autoclear_features": who writes without keeping up what a bit stands for takes it back. Bitmaps are not
// kept up here, but their clusters stay the image's: each is marked as inconsistent, as one is that QEMU did
// not close, and the bit stays. Without the bit nobody would count those clusters as used. Only a directory
// that makes no sense loses it.
Task<Result<void>> Runtime::clear_autoclear(IoEngine& engine) {
  co_await commit_lock_.lock(engine);
  Result<void> done;
  uint64_t kept = on_disk_.has_data_file() ? kAutoclearDataFileRaw : 0;
  const auto bitmaps = bitmap_directory(on_disk_, file_->size());
  if (bitmaps && *bitmaps) {
    done = co_await mark_bitmaps_inconsistent(engine, *file_, **bitmaps);
    if (done) kept |= kAutoclearBitmaps;
    if (!done && done.error().code == Errc::corrupt) done = {};
  }
  // As they are on disk: decode_header() drops some.
  const bool any = on_disk_.version >= 3 && (load_be64(first_sector_.data() + kFieldAutoclear) & ~kept) != 0;
  if (done && any) {
    Header cleared = on_disk_;
    cleared.autoclear &= kept;
    done = co_await write_header(engine, cleared);
    if (done) done = co_await file_->sync(engine);
    const std::scoped_lock guard(mutex_);
    header_.autoclear = on_disk_.autoclear;
  }
  commit_lock_.unlock();
  co_return done;
}

Task<Error> Runtime::found_corrupt(IoEngine& engine, Error error) {
  if (options_.read_only || corrupt_.exchange(true)) co_return error;
  co_await commit_lock_.lock(engine);
  if (on_disk_.version >= 3) {
    Header damaged = on_disk_;
    damaged.incompatible |= kIncompatCorrupt;
    Result<void> said = co_await write_header(engine, damaged);
    if (said) said = co_await file_->sync(engine);
    static_cast<void>(said);  // writing stops in any case
    const std::scoped_lock guard(mutex_);
    header_.incompatible |= kIncompatCorrupt;
  }
  commit_lock_.unlock();
  co_return error;
}

Task<Result<void>> Runtime::set_backing(IoEngine& engine, const std::string& name,
                                        const std::string& format) {
  const Result<void> ready = may_write();
  if (!ready) co_return ready;
  // Everything that was written over the old one is there before the new one is.
  Result<void> done = co_await commit(engine, !lazy_);
  if (!done) co_return done;
  co_await commit_lock_.lock(engine);
  done = co_await write_backing(engine, name, format);
  commit_lock_.unlock();
  co_return done;
}

Task<Result<void>> Runtime::write_backing(IoEngine& engine, const std::string& name,
                                          const std::string& format) {
  std::vector<std::byte> cluster(std::min(on_disk_.cluster_size(), file_->size()));
  Result<void> done = co_await read_bytes(engine, *file_, 0, cluster);
  if (!done) co_return done;
  Result<BackingChange> change = change_backing(on_disk_, cluster, name, format);
  if (!change) co_return std::unexpected(change.error());
  if (!change->behind().empty()) {
    done = co_await write_bytes(engine, *file_, kSectorSize, change->behind());
    if (done) done = co_await file_->sync(engine);
    if (!done) co_return done;
  }
  done = co_await write_bytes(engine, *file_, 0, change->first());
  if (!done) co_return done;
  // Before the sync: whatever is written of the header from now on goes on from here.
  std::ranges::copy(change->first(), first_sector_.begin());
  on_disk_ = std::move(change->header);
  {
    const std::scoped_lock guard(mutex_);
    header_.backing_file = on_disk_.backing_file;
    header_.extensions = on_disk_.extensions;
    header_.header_bytes = on_disk_.header_bytes;
    header_.backing_offset = on_disk_.backing_offset;
    header_.backing_size = on_disk_.backing_size;
  }
  co_return co_await file_->sync(engine);
}

}  // namespace minivmm::qcow2
