// What every emulated device is to the rest of the VMM.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/core/error.h"
#include "vmm/core/irq.h"

namespace minivmm {

class StateWriter;
class StateReader;

enum class IoStatus : uint8_t {
  ok,
  bad_access,  // wrong width or offset: reads give all ones, writes are ignored; counted, never fatal
};

// A register window. A device sees offsets from its own start, never absolute addresses, so it can be placed
// anywhere. Called on vCPU threads, several at once: a device with state guards it with its own mutex. Must
// not block or throw.
class IoDevice {
 public:
  virtual ~IoDevice() = default;
  virtual std::string_view name() const = 0;  // for statistics and logs
  // Width 1, 2, 4 or 8, given by the span's size; values are little-endian.
  virtual IoStatus read(uint64_t offset, std::span<std::byte> data) = 0;
  virtual IoStatus write(uint64_t offset, std::span<const std::byte> data) = 0;

  // Accesses that left the guest for this device; the bus dispatch counts them.
  void count_access() { accesses_.fetch_add(1, std::memory_order_relaxed); }
  uint64_t accesses() const { return accesses_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> accesses_{0};
};

// A device whose state is saved with the machine. Pure virtual: forgetting to save does not compile.
class StateUnit {
 public:
  virtual ~StateUnit() = default;
  virtual std::string_view state_name()
      const = 0;                                // unique in the machine, for ever: "serial0", "virtio-blk.0"
  virtual void save(StateWriter&) const = 0;    // only while the machine is paused
  virtual Result<void> load(StateReader&) = 0;  // validates all, then commits all
};

// Little-endian register values to and from an access of 1 to 8 bytes (the host is little-endian too).
inline uint64_t load_le(std::span<const std::byte> data) {
  uint64_t v = 0;
  std::memcpy(&v, data.data(), data.size() < sizeof v ? data.size() : sizeof v);
  return v;
}
inline void store_le(std::span<std::byte> data, uint64_t v) {
  std::memcpy(data.data(), &v, data.size() < sizeof v ? data.size() : sizeof v);
}

}  // namespace minivmm
