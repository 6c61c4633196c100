#include "virtio/device/balloon_pages.h"

#include <algorithm>

namespace minivmm {

BalloonPages::BalloonPages(GuestMemory& memory)
    : memory_(memory), per_host_page_(memory.host_page() / kPage) {
  if (per_host_page_ == 1) return;
  inflated_.resize(memory.size() / kPage);
  count_.resize(memory.size() / memory.host_page());
}

BalloonPages::Outcome BalloonPages::inflate(std::span<uint32_t> pages) {
  std::ranges::sort(pages);
  return per_host_page_ == 1 ? inflate_small(pages) : inflate_huge(pages);
}

// A system call for each run of pages.
BalloonPages::Outcome BalloonPages::inflate_small(std::span<const uint32_t> sorted) {
  Outcome outcome;
  uint64_t first = 0;
  uint64_t end = 0;  // of the run in hand
  const auto give = [&] {
    if (first != end && !memory_.discard(Gpa{first * kPage}, (end - first) * kPage)) outcome.refused = true;
  };
  for (const uint32_t page : sorted) {
    if (!memory_.contains(Gpa{uint64_t{page} * kPage}, kPage)) {
      outcome.outside = true;
    } else if (page == end) {
      ++end;
    } else if (page > end || first == end) {  // else it is in the run already
      give();
      first = page;
      end = uint64_t{page} + 1;
    }
  }
  give();
  return outcome;
}

// False: not RAM. Regions are whole host pages, so that none of those spans two regions.
bool BalloonPages::index_of(uint32_t page, uint64_t& index) const {
  const Gpa address{uint64_t{page} * kPage};
  uint64_t before = 0;
  for (const GuestMemory::Region& region : memory_.regions()) {
    if (address >= region.base && address - region.base < region.size) {
      index = before + (address - region.base) / kPage;
      return true;
    }
    before += region.size / kPage;
  }
  return false;
}

BalloonPages::Outcome BalloonPages::inflate_huge(std::span<const uint32_t> sorted) {
  Outcome outcome;
  for (const uint32_t page : sorted) {
    uint64_t index = 0;
    if (!index_of(page, index)) {
      outcome.outside = true;
      continue;
    }
    if (inflated_[index]) continue;
    inflated_[index] = true;
    if (++count_[index / per_host_page_] != per_host_page_) continue;
    const uint64_t start = uint64_t{page} * kPage / memory_.host_page() * memory_.host_page();
    if (!memory_.discard(Gpa{start}, memory_.host_page())) outcome.refused = true;
  }
  return outcome;
}

BalloonPages::Outcome BalloonPages::deflate(std::span<const uint32_t> pages) {
  Outcome outcome;
  for (const uint32_t page : pages) {
    if (!memory_.contains(Gpa{uint64_t{page} * kPage}, kPage)) outcome.outside = true;
    uint64_t index = 0;
    if (per_host_page_ == 1 || !index_of(page, index) || !inflated_[index]) continue;
    inflated_[index] = false;
    --count_[index / per_host_page_];
  }
  return outcome;
}

}  // namespace minivmm
