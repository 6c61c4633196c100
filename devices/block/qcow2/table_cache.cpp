#include "devices/block/qcow2/table_cache.h"

#include <algorithm>
#include <utility>

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kLeastTables = 4;    // what one request can need at a time, and a little more
constexpr unsigned kEvictionLook = 16;  // tables looked at to find one that may go
constexpr unsigned kSecondChance = 8;   // of them are let off for having been used

}  // namespace

uint64_t TableCache::bytes_for(uint64_t tables, uint64_t table_bytes, uint64_t most_bytes) {
  const uint64_t most = most_bytes / table_bytes;
  return std::min(most, std::min(tables, most) * 3 / 2 + kLeastTables) * table_bytes;
}

TableCache::TableCache(uint64_t table_bytes, uint64_t limit_bytes)
    : table_bytes_(table_bytes), limit_(std::max(kLeastTables, limit_bytes / table_bytes)) {}

Table* TableCache::find(uint64_t offset) {
  Table*& last = latest(offset);
  if (last == nullptr || last->offset != offset) {
    const auto slot = slots_.find(offset);
    if (slot == slots_.end()) return nullptr;
    last = slot->second.table.get();
  }
  if (last->loading) return nullptr;
  last->used = true;
  return last;
}

TablePtr TableCache::get(uint64_t offset) {
  const auto slot = slots_.find(offset);
  return slot == slots_.end() ? nullptr : slot->second.table;
}

void TableCache::insert(const TablePtr& table) {
  evict();
  recent_.push_front(table->offset);
  table->cached = true;
  slots_.emplace(table->offset, Slot{table, recent_.begin()});
}

// Room for one more, unless all that were not used for long are dirty or in use now: then the cache grows
// past its limit for a while. Those get out of the way, so that the next one finds others.
void TableCache::evict() {
  for (unsigned looked = 0; slots_.size() >= limit_ && looked < kEvictionLook; ++looked) {
    const auto oldest = std::prev(recent_.end());
    const auto slot = slots_.find(*oldest);
    Table& table = *slot->second.table;
    const bool used = std::exchange(table.used, false) && looked < kSecondChance;
    if (used || table.loading || table.dirty() || slot->second.table.use_count() > 1) {
      recent_.splice(recent_.begin(), recent_, oldest);
      continue;
    }
    remove(slot);
  }
}

void TableCache::remove(std::unordered_map<uint64_t, Slot>::iterator slot) {
  Table*& last = latest(slot->first);
  if (last == slot->second.table.get()) last = nullptr;
  slot->second.table->cached = false;
  recent_.erase(slot->second.place);
  slots_.erase(slot);
}

TablePtr TableCache::begin_load(uint64_t offset) {
  auto table = std::make_shared<Table>();
  table->offset = offset;
  table->bytes.resize(table_bytes_);
  table->loading = true;
  insert(table);
  return table;
}

void TableCache::end_load(const TablePtr& table, Result<void> status) {
  table->loading = false;
  table->status = status;
  if (!status && table->cached) drop(table->offset);
}

TablePtr TableCache::create(uint64_t offset) {
  drop(offset);
  auto table = std::make_shared<Table>();
  table->offset = offset;
  table->bytes.resize(table_bytes_);
  table->fresh = true;
  insert(table);
  mark_dirty(*table, 0, table_bytes_);
  return table;
}

void TableCache::mark_dirty(Table& table, uint64_t from, uint64_t end) {
  if (!table.cached) return;  // dropped: nobody will write it
  if (!table.dirty()) {
    dirty_.emplace(table.offset, get(table.offset));
    table.dirty_from = from;
    table.dirty_end = end;
    return;
  }
  table.dirty_from = std::min(table.dirty_from, from);
  table.dirty_end = std::max(table.dirty_end, end);
}

void TableCache::mark_clean(Table& table) {
  table.dirty_from = table.dirty_end = 0;
  dirty_.erase(table.offset);
}

void TableCache::drop(uint64_t offset) {
  const auto slot = slots_.find(offset);
  if (slot == slots_.end()) return;
  mark_clean(*slot->second.table);
  remove(slot);
}

std::vector<TablePtr> TableCache::all_dirty() const {
  std::vector<TablePtr> dirty;
  dirty.reserve(dirty_.size());
  for (const auto& [offset, table] : dirty_) dirty.push_back(table);
  return dirty;
}

}  // namespace minivmm::qcow2
