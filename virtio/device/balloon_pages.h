// Which of the guest's pages are in the balloon, and giving their memory to the host.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/core/error.h"
#include "vmm/core/guest_memory.h"

namespace minivmm {

// One thread at a time.
class BalloonPages {
 public:
  static constexpr uint64_t kPage = 4096;  // virtio 1.2, 5.5.6: whatever the guest's pages are

  explicit BalloonPages(GuestMemory& memory);

  struct Outcome {
    bool outside = false;  // one was not in RAM
    bool refused = false;  // the host did not take some back
  };
  // Page numbers as the guest gives them: any numbers, in any order, any number of times; reorders them.
  // Host pages larger than the balloon's go back once all of them is in the balloon.
  Outcome inflate(std::span<uint32_t> pages);
  Outcome deflate(std::span<const uint32_t> pages);

 private:
  Outcome inflate_small(std::span<const uint32_t> sorted);
  Outcome inflate_huge(std::span<const uint32_t> sorted);
  bool index_of(uint32_t page, uint64_t& index) const;

  GuestMemory& memory_;
  const uint64_t per_host_page_;  // balloon pages in a host page
  std::vector<bool> inflated_;    // by page of RAM, in the order of the regions; only with huge host pages
  std::vector<uint32_t> count_;   // of those, in each host page
};

}  // namespace minivmm
