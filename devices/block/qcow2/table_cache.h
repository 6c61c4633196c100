// The L2 tables or the refcount blocks that are in memory: a bounded number of whole clusters, as they are on
// disk. Nothing in here locks or does I/O: Runtime holds its mutex for every call.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "devices/block/io_sync.h"
#include "vmm/core/error.h"

namespace minivmm::qcow2 {

struct Table {
  uint64_t offset = 0;  // in the file
  std::vector<std::byte> bytes;
  bool loading = false;
  Result<void> status;  // of the load; the table is not in the cache if that failed
  IoEvent loaded;
  bool cached = false;  // the cache's own (not dropped since)
  bool used = false;    // since it was last looked at for eviction
  // Nothing on disk refers to it yet, so that it is written before what will.
  bool fresh = false;
  // The bytes newer than the file: [dirty_from, dirty_end), empty if clean.
  uint64_t dirty_from = 0;
  uint64_t dirty_end = 0;
  bool dirty() const { return dirty_from < dirty_end; }
};
using TablePtr = std::shared_ptr<Table>;  // holding one keeps it from being evicted

class TableCache {
 public:
  TableCache(uint64_t table_bytes, uint64_t limit_bytes);
  // The limit for a cache that has room for so many tables, and is never crowded by them; at most
  // `most_bytes`.
  static uint64_t bytes_for(uint64_t tables, uint64_t table_bytes, uint64_t most_bytes);

  uint64_t table_bytes() const { return table_bytes_; }
  // Null: absent or still loading.
  Table* find(uint64_t offset);
  TablePtr get(uint64_t offset);  // whatever it is doing; null: absent
  // A table that the caller fills (and then calls end_load) or starts from zeroes.
  TablePtr begin_load(uint64_t offset);
  void end_load(const TablePtr& table, Result<void> status);
  TablePtr create(uint64_t offset);  // fresh, all of it dirty

  void mark_dirty(Table& table, uint64_t from, uint64_t end);
  void mark_clean(Table& table);
  void drop(uint64_t offset);  // its cluster is no longer a table
  uint64_t dirty_tables() const { return dirty_.size(); }
  // So many are dirty that a commit should make room.
  bool crowded() const { return dirty_.size() >= limit_ - limit_ / 4; }
  std::vector<TablePtr> all_dirty() const;  // by offset

 private:
  struct Slot {
    TablePtr table;
    std::list<uint64_t>::iterator place;
  };
  Table*& latest(uint64_t offset) { return latest_[offset / table_bytes_ % latest_.size()]; }
  void insert(const TablePtr& table);
  void remove(std::unordered_map<uint64_t, Slot>::iterator slot);
  void evict();

  uint64_t table_bytes_;
  uint64_t limit_;                      // tables
  std::map<uint64_t, TablePtr> dirty_;  // by offset
  std::unordered_map<uint64_t, Slot> slots_;
  std::list<uint64_t> recent_;       // offsets: those that were looked at for eviction last, or came, first
  std::array<Table*, 64> latest_{};  // what find() found, by offset; null where it is not cached any more
};

}  // namespace minivmm::qcow2
