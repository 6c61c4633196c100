// An address space of register windows (port I/O or MMIO). The map is immutable and swapped whole when a BAR
// moves, so the exit path takes no lock: each vCPU keeps its own reference and looks at one counter.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "vmm/core/device.h"

namespace minivmm {

struct BusRange {
  uint64_t base;
  uint64_t size;
  IoDevice* device;     // outlives its place on the bus, and every vCPU's next exit after that
  uint64_t offset = 0;  // of `base` in the device's own window
};

class BusMap {
 public:
  explicit BusMap(std::vector<BusRange> ranges);  // sorts; ranges must not overlap
  // The range that holds all of [address, address + len), else nullptr.
  const BusRange* find(uint64_t address, size_t len) const;
  std::span<const BusRange> ranges() const { return ranges_; }

 private:
  std::vector<BusRange> ranges_;
};

class Bus {
 public:
  Bus();
  // Errc::out_of_range if it overlaps a range that is there.
  Result<void> insert(const BusRange&);
  void remove(uint64_t base, const IoDevice*);
  std::shared_ptr<const BusMap> map() const;
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

 private:
  void publish(std::vector<BusRange> ranges);

  mutable std::mutex mutex_;  // writers, and readers that find a new generation
  std::shared_ptr<const BusMap> map_;
  std::atomic<uint64_t> generation_{0};  // bumped after map_ changes; pairs with the acquire in generation()
};

// One thread's window on a bus.
class BusView {
 public:
  explicit BusView(const Bus& bus) : bus_(bus) {}
  const BusRange* find(uint64_t address, size_t len) {
    const uint64_t now = bus_.generation();
    if (now != seen_ || !map_) refresh(now);
    if (last_ != nullptr && address >= last_->base && address - last_->base + len <= last_->size)
      return last_;
    last_ = map_->find(address, len);
    return last_;
  }

 private:
  void refresh(uint64_t now);

  const Bus& bus_;
  std::shared_ptr<const BusMap> map_;
  const BusRange* last_ = nullptr;
  uint64_t seen_ = 0;
};

}  // namespace minivmm
