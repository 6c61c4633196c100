// What an open image consists of. image.h is the outside; docs/qcow2.md says what holds at every instant.
//
// Lock order: a ClusterLock hold, then commit_lock_, then mutex_. mutex_ is never held across an I/O.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "devices/block/block_file.h"
#include "devices/block/qcow2/attempt.h"
#include "devices/block/qcow2/cluster_lock.h"
#include "devices/block/qcow2/decompressed.h"
#include "devices/block/qcow2/image.h"
#include "devices/block/qcow2/mapping.h"
#include "devices/block/qcow2/metadata_set.h"
#include "devices/block/qcow2/pieces.h"
#include "devices/block/qcow2/refcounts.h"

namespace minivmm::qcow2 {

struct CommitPlan;
struct CountsCopy;
struct Fill;

// Clusters of the file that lost a reference; they keep their count until no entry on disk refers to them.
struct Freed {
  uint64_t first = 0;
  uint64_t count = 0;
  bool discard = false;  // give the space back to the file's host
};

class Runtime {
 public:
  using Options = Image::Options;

  // What open() has read and checked.
  struct Start {
    Header header;
    std::unique_ptr<BlockFile> file;
    Options options;
    std::array<std::byte, kSectorSize> first_sector;
    std::vector<uint64_t> l1;
    MetadataSet metadata;  // settled
    Refcounts::Start refcounts;
  };
  explicit Runtime(Start start);

  // --- open.cpp
  static Task<Result<std::unique_ptr<Runtime>>> open(IoEngine& engine, std::unique_ptr<BlockFile> file,
                                                     Options options, std::string& why);
  // --- runtime.cpp
  Header header() const;
  BlockFile& file() const { return *file_; }
  const Layout& layout() const { return layout_; }
  const std::shared_ptr<BlockBackend>& backing() const { return options_.backing; }
  uint64_t capacity() const { return capacity_.load(std::memory_order_acquire); }
  bool read_only() const { return options_.read_only; }
  Result<void> may_write() const;

  // --- read_path.cpp
  Task<Result<void>> read(IoEngine& engine, BlockRequest request);
  bool read_now(uint64_t guest, uint64_t length, std::span<const iovec> pieces);
  Task<Result<BlockExtent>> extent(IoEngine& engine, uint64_t offset, uint64_t length);
  // --- write_path.cpp
  Task<Result<void>> write(IoEngine& engine, BlockRequest request);
  // --- zero_discard.cpp
  Task<Result<void>> write_zeroes(IoEngine& engine, BlockRequest request);
  Task<Result<void>> discard(IoEngine& engine, BlockRequest request);
  // --- compressed.cpp
  Task<Result<void>> write_compressed(IoEngine& engine, uint64_t guest, std::span<const std::byte> cluster,
                                      std::span<const std::byte> compressed);
  // --- commit.cpp
  Task<Result<void>> flush(IoEngine& engine);
  Task<Result<void>> close(IoEngine& engine);
  // --- resize.cpp
  Task<Result<void>> resize(IoEngine& engine, uint64_t capacity_bytes);
  // --- header_update.cpp
  Task<Result<void>> set_backing(IoEngine& engine, const std::string& name, const std::string& format);

 private:
  struct Segment;

  // --- open.cpp
  static Task<Result<Header>> read_header(IoEngine& engine, BlockFile& file,
                                          std::array<std::byte, kSectorSize>& sector, std::string& why);
  static Task<Result<void>> prepare_writing(IoEngine& engine, Start& start, std::string& why);

  // --- runtime.cpp
  // Calls `work` under the mutex until no table is missing.
  template <class T, class Work>
  Task<Result<T>> attempt(IoEngine& engine, Work work);
  Task<Result<TablePtr>> load(IoEngine& engine, Obstacle obstacle);
  Attempt<Table*> table_for(uint64_t guest);  // null: there is none
  Attempt<Table*> writable_table(uint64_t guest);
  Attempt<Run> lookup(uint64_t guest, uint64_t length, Purpose purpose);
  Task<Result<Run>> map(IoEngine& engine, uint64_t guest, uint64_t length, Purpose purpose);
  bool backed(uint64_t guest) const {  // something may show through at `guest`
    return options_.backing != nullptr && guest < options_.backing->capacity();
  }
  Result<void> check_target(uint64_t host, uint64_t length) const;  // writing there damages no metadata
  // Writing would damage more than it mends: says so in the header, and stops all writing. Gives `error`
  // back.
  Task<Error> found_corrupt(IoEngine& engine, Error error);
  // attempt() for what changes metadata: Errc::corrupt ends all writing.
  template <class T, class Work>
  Task<Result<T>> attempt_change(IoEngine& engine, Work work);
  void mark_l1(uint64_t index);
  Result<void> cover_with_file(uint64_t end);  // the file reaches to `end`
  uint64_t used_bytes() const;
  void set_entry(Table& table, uint64_t guest, const Entry& entry);
  void release(const Entry& entry, bool discard);  // one reference less, after the next commit
  void release_clusters(uint64_t first, uint64_t count, bool discard);
  Task<void> give_back(IoEngine& engine, HostRun run);  // allocated and never referred to

  // --- read_path.cpp
  Task<Result<void>> read_locked(IoEngine& engine, BlockRequest request);
  // The caller holds the clusters' lock.
  Task<Result<void>> read_mapped(IoEngine& engine, uint64_t guest, uint64_t length,
                                 std::span<const iovec> pieces, const StopFlag* stop);
  Task<Result<void>> read_run(IoEngine& engine, Run run, uint64_t guest, std::span<const iovec> pieces,
                              const StopFlag* stop);
  Task<Result<void>> read_part(IoEngine& engine, Run run, uint64_t guest, Pieces pieces,
                               const StopFlag* stop);
  Task<Result<void>> read_backing(IoEngine& engine, uint64_t guest, uint64_t length,
                                  std::span<const iovec> pieces, const StopFlag* stop);
  static Task<Result<void>> read_nothing(std::span<const iovec> pieces);
  Task<Result<bool>> reads_zero(IoEngine& engine, uint64_t guest, uint64_t length);

  // --- write_path.cpp
  bool write_now(const BlockRequest& request, uint64_t first, uint64_t last);
  Task<Result<void>> write_locked(IoEngine& engine, BlockRequest request, uint64_t first, uint64_t last);
  // False: it has to change the mapping.
  Task<Result<bool>> write_in_place(IoEngine& engine, uint64_t guest, uint64_t length,
                                    std::span<const iovec> pieces, const StopFlag* stop);
  // Anywhere; the caller holds the clusters' lock exclusively.
  Task<Result<void>> write_mapped(IoEngine& engine, uint64_t guest, uint64_t length,
                                  std::span<const iovec> pieces, const StopFlag* stop);
  Attempt<Segment> plan_segment(uint64_t guest, uint64_t length);
  Attempt<Segment> plan_new(uint64_t guest, uint64_t length, Table& table);
  Task<Result<void>> write_segment(IoEngine& engine, const Segment& segment, uint64_t guest,
                                   std::span<const iovec> pieces, const StopFlag* stop);
  Task<Result<void>> read_around(IoEngine& engine, Fill& fill, const StopFlag* stop);
  Task<Result<void>> write_part(IoEngine& engine, uint64_t host, Pieces pieces, const StopFlag* stop);
  void link(const Segment& segment, uint64_t guest);
  Entry linked(const Segment& segment, const Entry& old, uint64_t cluster) const;

  // --- zero_discard.cpp
  Task<Result<void>> zero_range(IoEngine& engine, uint64_t guest, uint64_t length, bool may_unmap,
                                const StopFlag* stop);
  Task<Result<void>> zero_by_writing(IoEngine& engine, uint64_t guest, uint64_t length, const StopFlag* stop);
  Task<Result<void>> zero_without_flag(IoEngine& engine, uint64_t guest, uint64_t length, bool may_unmap,
                                       const StopFlag* stop);
  Attempt<uint64_t> zero_entries(uint64_t guest, uint64_t end, bool may_unmap);
  Attempt<uint64_t> discard_entries(uint64_t guest, uint64_t end, bool forget);
  Task<Result<uint64_t>> discard_in_place(IoEngine& engine, uint64_t guest, uint64_t length);
  Task<void> discard_data(IoEngine& engine, uint64_t guest, uint64_t length);
  Result<void> check_data(uint64_t host, uint64_t length) const;  // check_target() for who has not the mutex

  // --- compressed.cpp
  Task<Result<void>> read_compressed(IoEngine& engine, uint64_t word, uint64_t skip, uint64_t length,
                                     std::span<const iovec> pieces, const StopFlag* stop);
  Task<Result<void>> decompress_cluster(IoEngine& engine, uint64_t word, std::span<std::byte> cluster,
                                        const StopFlag* stop);
  Attempt<CompressedRun> allocate_compressed(uint64_t bytes);

  // --- commit.cpp
  Task<Result<void>> make_room(IoEngine& engine);  // a commit, if much waits for one
  Task<Result<void>> commit(IoEngine& engine, bool all);
  Task<Result<void>> commit_locked(IoEngine& engine, bool all);
  Task<Result<bool>> commit_once(IoEngine& engine, bool all);  // true: there is more to do
  Task<uint64_t> prepare(IoEngine& engine, CommitPlan& plan, bool all);
  Task<Result<void>> run_plan(IoEngine& engine, CommitPlan& plan);
  void collect(CommitPlan& plan, bool all);
  void collect_counts(CommitPlan& plan);
  void collect_headers(CommitPlan& plan);
  void leave_out_unlinked(const std::map<uint64_t, CountsCopy>& copies);
  void took_place(CommitPlan& plan);
  void restore(CommitPlan& plan);

  // --- commit_freed.cpp
  std::vector<uint64_t> counts_to_hold(const CommitPlan& plan) const;
  void collect_lowered(CommitPlan& plan);
  void keep_held(Freed freed, CommitPlan& plan, std::deque<Freed>& held, std::deque<Freed>& others) const;
  Task<void> apply_freed(IoEngine& engine, CommitPlan& plan);
  Task<Result<void>> lower_freed(IoEngine& engine, Freed& freed, Refcounts::Lowered lowered);
  Task<Result<void>> sync(IoEngine& engine);
  bool anything_dirty() const;
  Task<Result<void>> trim_file(IoEngine& engine);

  // --- header_update.cpp
  static bool same_header(const Header& a, const Header& b);
  Task<Result<void>> write_backing(IoEngine& engine, const std::string& name, const std::string& format);
  std::array<std::byte, kSectorSize> header_sector(const Header& wanted) const;
  Task<Result<void>> write_header(IoEngine& engine, Header wanted);
  Task<Result<void>> mark_closed(IoEngine& engine);
  Task<Result<void>> clear_autoclear(IoEngine& engine);
  Task<Result<void>> mark_in_use(IoEngine& engine);  // the dirty bit of lazy refcounts

  // --- resize.cpp
  Task<Result<void>> grow(IoEngine& engine, uint64_t bytes);
  Task<Result<void>> shrink(IoEngine& engine, uint64_t bytes);
  Attempt<void> grow_l1(uint64_t entries);
  Task<Result<void>> free_from(IoEngine& engine, uint64_t guest);
  Attempt<void> free_table(uint64_t guest);
  Task<Result<void>> commit_size(IoEngine& engine, uint64_t bytes);

  // Constant while open.
  const Layout layout_;
  const std::unique_ptr<BlockFile> file_;
  Options options_;
  BlockFile* const data_;  // file_ or options_.data_file
  const bool data_raw_;    // an external data file that is to be readable as it is
  const bool lazy_;        // lazy refcounts
  const Compression compression_;

  ClusterLock locks_;
  IoMutex commit_lock_;  // also for the header on disk
  Header on_disk_;       // under commit_lock_, and so is its sector
  std::array<std::byte, kSectorSize> first_sector_;
  std::atomic<uint64_t> capacity_;
  std::atomic<bool> corrupt_{false};
  std::atomic<bool> in_use_{false};   // the dirty bit is set, or need not be
  std::atomic<bool> grown_{false};    // the file, ahead of its use
  std::mutex growing_;                // the file's size
  std::atomic<unsigned> not_now_{0};  // so many reads are not tried at once: one could not be, lately
  DecompressedCache decompressed_;

  mutable std::mutex mutex_;  // all that follows
  Header header_;
  bool header_changed_ = false;  // perhaps; the commit compares
  std::vector<uint64_t> l1_;
  uint64_t l1_dirty_from_ = 0;
  uint64_t l1_dirty_end_ = 0;
  bool l1_moved_ = false;
  MetadataSet metadata_;
  Refcounts refcounts_;
  TableCache tables_;
  std::deque<Freed> freed_;                // since the last commit was collected
  std::map<uint64_t, uint64_t> unlinked_;  // clusters whose entries wait for their data: first, count
  uint64_t compressed_tail_ = 0;           // where the next compressed cluster may begin; 0: in a new cluster
  uint64_t data_end_ = 0;                  // external data file: written or held up to here
  uint64_t commits_begun_ = 0;
  uint64_t commits_ended_ = 0;
  uint64_t commits_done_ = 0;  // the last that succeeded
};

template <class T, class Work>
Task<Result<T>> Runtime::attempt(IoEngine& engine, Work work) {
  std::vector<TablePtr> held;  // what was loaded stays until the work has been done with it
  for (;;) {
    Obstacle obstacle;
    {
      const std::scoped_lock guard(mutex_);
      Attempt<T> done = work();
      if constexpr (std::is_void_v<T>) {
        if (done) co_return Result<void>{};
      } else {
        if (done) co_return Result<T>(std::move(*done));
      }
      obstacle = done.error();
    }
    if (obstacle.cache == nullptr) co_return std::unexpected(obstacle.error);
    auto table = co_await load(engine, obstacle);
    if (!table) co_return std::unexpected(table.error());
    held.push_back(std::move(*table));
  }
}

template <class T, class Work>
Task<Result<T>> Runtime::attempt_change(IoEngine& engine, Work work) {
  Result<T> done = co_await attempt<T>(engine, work);
  if (!done && done.error().code == Errc::corrupt) {
    const Error error = co_await found_corrupt(engine, done.error());
    co_return std::unexpected(error);
  }
  co_return done;
}

}  // namespace minivmm::qcow2
