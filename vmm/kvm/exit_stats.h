// Counts of exits, kept by each vCPU thread for itself and read by others at leisure.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>

namespace minivmm {

enum class ExitReason : uint8_t {
  pio_in,
  pio_out,
  mmio_read,
  mmio_write,
  interrupted,  // a kick: pause, stop, reset
  shutdown,     // triple fault
  system_event,
  other,
  count,
};
std::string_view to_string(ExitReason);

class ExitStats {
 public:
  // Only the owning thread adds: a plain load and store, no locked instruction.
  void add(ExitReason reason) {
    auto& counter = counts_[static_cast<size_t>(reason)];
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  uint64_t operator[](ExitReason reason) const {
    return counts_[static_cast<size_t>(reason)].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<uint64_t>, static_cast<size_t>(ExitReason::count)> counts_{};
};

}  // namespace minivmm
