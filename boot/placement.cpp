#include "boot/placement.h"

#include <algorithm>
#include <bit>

namespace minivmm {

namespace {

constexpr uint64_t align_up(uint64_t v, uint64_t alignment) {
  return (v + alignment - 1) & ~(alignment - 1);
}

}  // namespace

PlacementMap::PlacementMap(const GuestMemory& memory, const BootConfig& config) {
  for (const E820Entry& entry : config.e820) {
    if (entry.type != E820Type::ram) continue;
    for (const auto& region : memory.regions()) {
      const uint64_t begin = std::max(entry.base, value(region.base));
      const uint64_t end = std::min(entry.base + entry.size, value(region.base) + region.size);
      if (begin >= end) continue;
      if (!free_.empty() && free_.back().end == begin) {
        free_.back().end = end;
      } else {
        free_.push_back({begin, end});
      }
    }
  }
  // Below the boot data there are the real-mode vectors and the BIOS data area.
  take(0, value(kBootDataBase) + kBootDataSize);
  for (const auto& range : config.reserved) take(value(range.base), range.size);
}

void PlacementMap::take(uint64_t base, uint64_t size) {
  const uint64_t end = base + size < base ? ~uint64_t{0} : base + size;
  std::vector<Span> left;
  for (const Span& span : free_) {
    if (end <= span.begin || span.end <= base) {
      left.push_back(span);
      continue;
    }
    if (span.begin < base) left.push_back({span.begin, base});
    if (end < span.end) left.push_back({end, span.end});
  }
  free_ = std::move(left);
}

bool PlacementMap::is_free(uint64_t base, uint64_t size) const {
  return std::ranges::any_of(free_, [&](const Span& span) {
    return base >= span.begin && base <= span.end && size <= span.end - base;
  });
}

std::optional<uint64_t> PlacementMap::highest(uint64_t size, uint64_t alignment, uint64_t limit) const {
  for (auto span = free_.rbegin(); span != free_.rend(); ++span) {
    const uint64_t end = std::min(span->end, limit);
    if (end < size) continue;
    const uint64_t base = (end - size) & ~(alignment - 1);
    if (base >= span->begin) return base;
  }
  return std::nullopt;
}

std::vector<PlacementMap::Slots> PlacementMap::slots(uint64_t size, uint64_t alignment, uint64_t from,
                                                     uint64_t limit) const {
  MV_CHECK(std::has_single_bit(alignment));
  std::vector<Slots> out;
  for (const Span& span : free_) {
    const uint64_t first = align_up(std::max(span.begin, from), alignment);
    const uint64_t end = std::min(span.end, limit);
    if (first < span.begin || first > end || end - first < size) continue;
    out.push_back({first, (end - first - size) / alignment + 1});
  }
  return out;
}

uint64_t PlacementMap::slot_count(uint64_t size, uint64_t alignment, uint64_t from, uint64_t limit) const {
  uint64_t count = 0;
  for (const Slots& run : slots(size, alignment, from, limit)) count += run.count;
  return count;
}

std::optional<uint64_t> PlacementMap::slot(uint64_t n, uint64_t size, uint64_t alignment, uint64_t from,
                                           uint64_t limit) const {
  for (const Slots& run : slots(size, alignment, from, limit)) {
    if (n < run.count) return run.first + n * alignment;
    n -= run.count;
  }
  return std::nullopt;
}

uint64_t PlacementMap::largest_free(uint64_t limit) const {
  uint64_t largest = 0;
  for (const Span& span : free_) {
    if (span.begin < limit) largest = std::max(largest, std::min(span.end, limit) - span.begin);
  }
  return largest;
}

}  // namespace minivmm
