// The configuration space of one PCI function (PCI Local Bus 3.0, chapter 6): its registers, what of them the
// guest may write, its BARs and its capability list. Not thread-safe: PciBus serialises all accesses.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "vmm/core/error.h"

namespace minivmm {

class StateReader;
class StateWriter;

inline constexpr unsigned kPciBars = 6;
inline constexpr size_t kPciConfigSize = 256;       // PCI 3.0, 6.1
inline constexpr size_t kPciConfigSizePcie = 4096;  // what ECAM reaches; all zero past kPciConfigSize
inline constexpr uint16_t kPciCommandMemory = 0x2;  // PCI 3.0, 6.2.2
inline constexpr uint16_t kPciCommandMaster = 0x4;
inline constexpr uint8_t kPciCapVendor = 0x09;  // PCI 3.0, appendix H: what virtio's capabilities are
inline constexpr uint8_t kPciCapMsix = 0x11;

struct PciIdentity {
  uint16_t vendor = 0;
  uint16_t device = 0;
  uint32_t class_code = 0;  // 24 bits: base class, subclass, programming interface
  uint8_t revision = 0;
  uint16_t subsystem_vendor = 0;
  uint16_t subsystem = 0;
};

enum class PciBarKind : uint8_t { none, memory32, memory64, memory64_prefetchable };

class PciConfigSpace {
 public:
  // A type 0 header; interrupt pin 0, since legacy INTx is not offered.
  explicit PciConfigSpace(const PciIdentity&);

  // --- Building, before the guest runs. Everything here is a programming error when misused (MV_CHECK).

  // `size` is a power of two, at least 16. A memory64 BAR also takes register `index` + 1.
  void define_bar(unsigned index, PciBarKind, uint64_t size);
  // Appends a capability: `body` is what follows the id and next bytes; `writable` has a set bit for each bit
  // of `body` that the guest may write (empty: none). Returns its offset in the configuration space.
  uint8_t add_capability(uint8_t id, std::span<const std::byte> body,
                         std::span<const std::byte> writable = {});
  // Calls `hook` after each guest write that touched [offset, offset + size).
  void on_write(uint16_t offset, uint16_t size, std::function<void()> hook);

  // --- The guest's view. Any length and alignment; past the end reads are zero and writes ignored.

  void read(uint16_t offset, std::span<std::byte> data) const;
  void write(uint16_t offset, std::span<const std::byte> data);

  // --- The device's view.

  uint16_t get16(uint16_t offset) const;
  uint32_t get32(uint16_t offset) const;
  void set16(uint16_t offset, uint16_t v);  // whatever the write masks say; calls no hook
  void set32(uint16_t offset, uint32_t v);
  uint16_t command() const { return get16(0x04); }
  bool memory_enabled() const { return (command() & kPciCommandMemory) != 0; }
  bool bus_master() const { return (command() & kPciCommandMaster) != 0; }

  PciBarKind bar_kind(unsigned index) const { return bars_[index].kind; }
  uint64_t bar_size(unsigned index) const { return bars_[index].size; }
  uint64_t bar_address(unsigned index) const;
  void set_bar_address(unsigned index, uint64_t address);

  // Power-on values: BAR addresses 0, decoding off, capabilities as built. Calls the hooks.
  void reset();

  // --- State. parse() checks that it was saved from a function of the same make; commit() calls the hooks.
  void save(StateWriter&) const;
  using Saved = std::vector<std::byte>;
  Result<Saved> parse(const StateReader&) const;
  void commit(const Saved&);

 private:
  struct Byte {
    uint8_t value = 0;
    uint8_t initial = 0;
    uint8_t writable = 0;       // bits the guest may set and clear
    uint8_t write_1_clear = 0;  // bits the guest clears by writing one
  };
  struct Bar {
    PciBarKind kind = PciBarKind::none;
    uint64_t size = 0;
  };
  struct Hook {
    uint16_t offset;
    uint16_t size;
    std::function<void()> run;
  };

  void build(uint16_t offset, uint64_t v, unsigned width);
  void build_mask(uint16_t offset, uint64_t writable, unsigned width);

  std::array<Byte, kPciConfigSize> bytes_{};
  std::array<Bar, kPciBars> bars_{};
  std::vector<Hook> hooks_;
  uint16_t next_capability_ = 0x40;
  uint8_t last_capability_ = 0;
};

}  // namespace minivmm
