#include "boot/e820.h"

#include <algorithm>

namespace minivmm {

namespace {

struct Span {
  uint64_t begin, end;
};

// Cuts [cut.begin, cut.end) out of every span.
void subtract(std::vector<Span>& spans, Span cut) {
  std::vector<Span> left;
  for (const Span& span : spans) {
    if (cut.end <= span.begin || span.end <= cut.begin) {
      left.push_back(span);
      continue;
    }
    if (span.begin < cut.begin) left.push_back({span.begin, cut.begin});
    if (cut.end < span.end) left.push_back({cut.end, span.end});
  }
  spans = std::move(left);
}

}  // namespace

std::vector<E820Entry> build_e820(std::span<const GuestMemory::Range> ram,
                                  std::span<const GuestMemory::Range> reserved) {
  std::vector<Span> usable;
  for (const auto& range : ram) usable.push_back({value(range.base), value(range.base) + range.size});

  std::vector<Span> kept{{kEbdaBase, kVideoHole}, {kBiosArea, kHighMemory}};
  for (const auto& range : reserved) {
    if (range.size != 0) kept.push_back({value(range.base), value(range.base) + range.size});
  }
  std::ranges::sort(kept, {}, &Span::begin);
  std::vector<Span> merged;
  for (const Span& span : kept) {
    if (!merged.empty() && span.begin <= merged.back().end) {
      merged.back().end = std::max(merged.back().end, span.end);
    } else {
      merged.push_back(span);
    }
  }

  subtract(usable, {kVideoHole, kBiosArea});
  for (const Span& span : merged) subtract(usable, span);

  std::vector<E820Entry> map;
  map.reserve(usable.size() + merged.size());
  for (const Span& span : usable) map.push_back({span.begin, span.end - span.begin, E820Type::ram});
  for (const Span& span : merged) map.push_back({span.begin, span.end - span.begin, E820Type::reserved});
  std::ranges::sort(map, {}, &E820Entry::base);

  // RAM regions that adjoin are one to the guest.
  std::vector<E820Entry> joined;
  for (const E820Entry& entry : map) {
    if (!joined.empty() && joined.back().type == entry.type &&
        joined.back().base + joined.back().size == entry.base) {
      joined.back().size += entry.size;
    } else {
      joined.push_back(entry);
    }
  }
  return joined;
}

std::vector<E820Entry> build_e820(const GuestMemory& memory, std::span<const GuestMemory::Range> reserved) {
  std::vector<GuestMemory::Range> ram;
  for (const auto& region : memory.regions()) ram.push_back({region.base, region.size});
  return build_e820(ram, reserved);
}

}  // namespace minivmm
