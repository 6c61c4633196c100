#include "vmm/core/bus.h"

#include <algorithm>
#include <utility>

namespace minivmm {

BusMap::BusMap(std::vector<BusRange> ranges) : ranges_(std::move(ranges)) {
  std::ranges::sort(ranges_, {}, &BusRange::base);
}

const BusRange* BusMap::find(uint64_t address, size_t len) const {
  auto after = std::ranges::upper_bound(ranges_, address, {}, &BusRange::base);
  if (after == ranges_.begin()) return nullptr;
  const BusRange& range = *std::prev(after);
  const uint64_t offset = address - range.base;
  if (offset >= range.size || len > range.size - offset) return nullptr;
  return &range;
}

Bus::Bus() : map_(std::make_shared<const BusMap>(std::vector<BusRange>{})) {}

Result<void> Bus::insert(const BusRange& range) {
  const std::scoped_lock lock(mutex_);
  if (range.size == 0 || range.base + (range.size - 1) < range.base) {
    return fail(Errc::invalid, "an empty or wrapping bus range");
  }
  for (const BusRange& other : map_->ranges()) {
    if (range.base <= other.base + (other.size - 1) && other.base <= range.base + (range.size - 1)) {
      return fail(Errc::out_of_range, "the bus range overlaps another");
    }
  }
  std::vector<BusRange> ranges(map_->ranges().begin(), map_->ranges().end());
  ranges.push_back(range);
  publish(std::move(ranges));
  return {};
}

void Bus::remove(uint64_t base, const IoDevice* device) {
  const std::scoped_lock lock(mutex_);
  std::vector<BusRange> ranges(map_->ranges().begin(), map_->ranges().end());
  std::erase_if(ranges, [&](const BusRange& r) { return r.base == base && r.device == device; });
  publish(std::move(ranges));
}

void Bus::publish(std::vector<BusRange> ranges) {
  map_ = std::make_shared<const BusMap>(std::move(ranges));
  generation_.fetch_add(1, std::memory_order_release);
}

std::shared_ptr<const BusMap> Bus::map() const {
  const std::scoped_lock lock(mutex_);
  return map_;
}

void BusView::refresh(uint64_t now) {
  map_ = bus_.map();
  seen_ = now;
  last_ = nullptr;
}

}  // namespace minivmm
