// Where in guest RAM there is still room: what is usable by the e820 map and not yet taken.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "boot/boot_config.h"
#include "vmm/core/guest_memory.h"

namespace minivmm {

inline constexpr uint64_t kFourGiB = uint64_t{1} << 32;

class PlacementMap {
 public:
  // Usable RAM of `memory` less config.reserved and the boot layer's own low area.
  PlacementMap(const GuestMemory& memory, const BootConfig& config);

  // [base, base + size) is from now on taken; it need not have been free.
  void take(uint64_t base, uint64_t size);
  bool is_free(uint64_t base, uint64_t size) const;

  // The highest place of this alignment (a power of two) that ends at or below `limit`.
  std::optional<uint64_t> highest(uint64_t size, uint64_t alignment, uint64_t limit) const;
  // How many places of this size and alignment begin at or above `from` and end at or below `limit`, and the
  // n-th of them: KASLR's slots.
  uint64_t slot_count(uint64_t size, uint64_t alignment, uint64_t from, uint64_t limit) const;
  std::optional<uint64_t> slot(uint64_t n, uint64_t size, uint64_t alignment, uint64_t from,
                               uint64_t limit) const;

  uint64_t largest_free(uint64_t limit) const;  // bytes, below `limit`: for error messages

 private:
  struct Span {
    uint64_t begin, end;
  };
  // The free spans cut to [from, limit) and aligned, as first place and number of places.
  struct Slots {
    uint64_t first, count;
  };
  std::vector<Slots> slots(uint64_t size, uint64_t alignment, uint64_t from, uint64_t limit) const;

  std::vector<Span> free_;  // sorted, disjoint
};

}  // namespace minivmm
