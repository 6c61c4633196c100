#include "devices/block/qcow2/table_cache.h"

#include <algorithm>

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kLeastTables = 4;    // what one request can need at a time, and a little more
constexpr unsigned kEvictionLook = 16;  // tables looked at to find one that may go

}  // namespace

TableCache::TableCache(uint64_t table_bytes, uint64_t limit_bytes)
    : table_bytes_(table_bytes), limit_(std::max(kLeastTables, limit_bytes / table_bytes)) {}

Table* TableCache::find(uint64_t offset) {
  const auto slot = slots_.find(offset);
  if (slot == slots_.end() || slot->second.table->loading) return nullptr;
  if (slot->second.place != recent_.begin()) recent_.splice(recent_.begin(), recent_, slot->second.place);
  return slot->second.table.get();
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

// Room for one more, unless all that lie at hand are dirty or in use: then the cache grows past its limit, by
// at most what requests in flight hold and a commit cleans.
void TableCache::evict() {
  unsigned looked = 0;
  for (auto at = recent_.end(); slots_.size() >= limit_ && at != recent_.begin() && looked < kEvictionLook;
       ++looked) {
    --at;
    const auto slot = slots_.find(*at);
    const Table& table = *slot->second.table;
    if (table.loading || table.dirty() || slot->second.table.use_count() > 1) continue;
    slot->second.table->cached = false;
    slots_.erase(slot);
    at = recent_.erase(at);
  }
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
    ++dirty_;
    table.dirty_from = from;
    table.dirty_end = end;
    return;
  }
  table.dirty_from = std::min(table.dirty_from, from);
  table.dirty_end = std::max(table.dirty_end, end);
}

void TableCache::mark_clean(Table& table) {
  if (table.dirty()) --dirty_;
  table.dirty_from = table.dirty_end = 0;
}

void TableCache::drop(uint64_t offset) {
  const auto slot = slots_.find(offset);
  if (slot == slots_.end()) return;
  mark_clean(*slot->second.table);
  slot->second.table->cached = false;
  recent_.erase(slot->second.place);
  slots_.erase(slot);
}

std::vector<TablePtr> TableCache::all_dirty() const {
  std::vector<TablePtr> dirty;
  dirty.reserve(dirty_);
  for (const auto& [offset, slot] : slots_)
    if (slot.table->dirty()) dirty.push_back(slot.table);
  std::ranges::sort(dirty, {}, [](const TablePtr& table) { return table->offset; });
  return dirty;
}

}  // namespace minivmm::qcow2
