#include "devices/block/qcow2/metadata_set.h"

#include <algorithm>

namespace minivmm::qcow2 {

void MetadataSet::add_range(uint64_t first, uint64_t count) {
  if (count > 0) ranges_.push_back({first, first + count});
}

void MetadataSet::add_table(uint64_t cluster) {
  tables_.push_back(cluster);
}

bool MetadataSet::settle() {
  std::ranges::sort(ranges_, {}, &Range::first);
  std::vector<Range> merged;
  for (const Range& range : ranges_) {
    if (merged.empty() || range.first > merged.back().end) {
      merged.push_back(range);
    } else {
      merged.back().end = std::max(merged.back().end, range.end);
    }
  }
  ranges_ = std::move(merged);
  std::ranges::sort(tables_);
  if (std::ranges::adjacent_find(tables_) != tables_.end()) return false;
  return std::ranges::none_of(tables_, [this](uint64_t at) { return in_ranges(at, at + 1); });
}

void MetadataSet::insert(uint64_t cluster) {
  const auto at = std::ranges::lower_bound(tables_, cluster);
  if (at == tables_.end() || *at != cluster) tables_.insert(at, cluster);
}

void MetadataSet::insert_range(uint64_t first, uint64_t count) {
  add_range(first, count);
  std::ranges::sort(ranges_, {}, &Range::first);
}

void MetadataSet::erase(uint64_t cluster) {
  const auto at = std::ranges::lower_bound(tables_, cluster);
  if (at != tables_.end() && *at == cluster) tables_.erase(at);
}

// Part of a range may have been merged with its neighbours.
void MetadataSet::erase_range(uint64_t first, uint64_t count) {
  const uint64_t end = first + count;
  std::vector<Range> left;
  for (const Range& range : ranges_) {
    if (range.first < std::min(range.end, first)) left.push_back({range.first, std::min(range.end, first)});
    if (std::max(range.first, end) < range.end) left.push_back({std::max(range.first, end), range.end});
  }
  ranges_ = std::move(left);
}

bool MetadataSet::in_ranges(uint64_t first, uint64_t end) const {
  const auto after =
      std::ranges::upper_bound(ranges_, first, {}, &Range::end);  // the first that ends past us
  return after != ranges_.end() && after->first < end;
}

bool MetadataSet::overlaps(uint64_t first, uint64_t count) const {
  const auto table = std::ranges::lower_bound(tables_, first);
  if (table != tables_.end() && *table < first + count) return true;
  return in_ranges(first, first + count);
}

}  // namespace minivmm::qcow2
