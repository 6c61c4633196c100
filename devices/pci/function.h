// One PCI function (always function 0 of its slot): what a PCI device derives from.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "devices/pci/config.h"
#include "devices/pci/msix.h"
#include "vmm/core/device.h"
#include "vmm/core/irq.h"

namespace minivmm {

class PciBus;

// Registers and BARs are set up in the derived class's constructor, before PciBus::add(). Configuration
// accesses come one at a time, under the bus's mutex, from any vCPU thread; BAR accesses go straight to the
// BAR's IoDevice, several at once.
class PciFunction : public StateUnit {
 public:
  ~PciFunction() override;  // takes its windows off the bus, if it is on one

  // A guest's configuration access: 1, 2 or 4 bytes within one dword. Override for registers with a life of
  // their own (virtio 1.2, 4.1.4.9), and call these for the rest.
  virtual void config_read(uint16_t offset, std::span<std::byte> data) { config_.read(offset, data); }
  virtual void config_write(uint16_t offset, std::span<const std::byte> data) { config_.write(offset, data); }

  // Offsets are in bytes from the BAR's start. Asked each time the BAR gets a place; where one cannot be
  // attached, the write exits to the BAR's IoDevice instead, which must do the same.
  virtual std::vector<Doorbell> doorbells([[maybe_unused]] unsigned bar) { return {}; }

  // Back to power-on. PciBus::reset() calls it and resets the PCI registers and MSI-X itself.
  virtual void function_reset() = 0;

  PciConfigSpace& config() { return config_; }
  const PciConfigSpace& config() const { return config_; }

  // `window` answers the BAR's accesses and lives as long as the function; `size` is a power of two, >= 16.
  void set_bar(unsigned bar, PciBarKind, uint64_t size, IoDevice& window);
  IoDevice* bar_device(unsigned bar) const { return windows_[bar]; }

 protected:
  explicit PciFunction(const PciIdentity& identity) : config_(identity) {}
  PciFunction(const PciFunction&) = delete;
  PciFunction& operator=(const PciFunction&) = delete;

  // For the derived class's save() and load(): all PCI registers, BAR addresses and MSI-X in one group under
  // field id kPciStateId, which the derived class does not use itself.
  static constexpr uint16_t kPciStateId = 0x7f00;
  struct PciState {
    PciConfigSpace::Saved config;
    std::optional<Msix::Saved> msix;
  };
  void save_pci(StateWriter&) const;
  Result<PciState> parse_pci(const StateReader&) const;  // changes nothing
  void commit_pci(const PciState&);                      // and moves the BAR windows
  Result<void> load_pci(StateReader&);  // all of load() for a function that saves nothing else

 private:
  friend class PciBus;
  friend class Msix;

  PciConfigSpace config_;
  std::array<IoDevice*, kPciBars> windows_{};
  Msix* msix_ = nullptr;   // set by Msix's constructor
  PciBus* bus_ = nullptr;  // set by PciBus::add()
};

}  // namespace minivmm
