// What a guest tells of its memory (virtio 1.2, 5.5.6.3).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace minivmm {

// All in bytes, but the four counts of events since the guest's start. What the guest does not tell is empty;
// what it tells may be anything.
struct BalloonStats {
  uint64_t target = 0;                                        // that the guest is asked to give,
  uint64_t actual = 0;                                        // that it says it has given,
  uint64_t most = 0;                                          // and the most that it ever had
  std::optional<std::chrono::steady_clock::time_point> time;  // when the rest came; empty: never
  std::optional<uint64_t> swapped_in, swapped_out;
  std::optional<uint64_t> major_faults, minor_faults;  // events
  std::optional<uint64_t> free, total;
  std::optional<uint64_t> available;                                  // without pushing anything to swap
  std::optional<uint64_t> caches;                                     // that could be dropped
  std::optional<uint64_t> huge_page_allocations, huge_page_failures;  // events
};

}  // namespace minivmm
