// PCI bus 0: 32 slots of one function each, the host bridge in slot 0, the two ways to configuration space
// (ports 0xCF8/0xCFC and ECAM), and the BAR windows, which it keeps where the guest's BARs say.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "devices/pci/function.h"
#include "vmm/core/bus.h"
#include "vmm/core/device.h"
#include "vmm/core/irq.h"
#include "vmm/core/log.h"

namespace minivmm {

inline constexpr unsigned kPciSlots = 32;
inline constexpr uint64_t kPciConfigPortsSize = 8;           // at port 0xCF8
inline constexpr uint64_t kPciEcamSize = uint64_t{1} << 20;  // one bus; the MCFG says buses 0 to 0

class PciBus final : public StateUnit {
 public:
  struct Window {
    uint64_t base = 0;
    uint64_t size = 0;
  };
  struct Options {
    Window mmio32;  // below 4 GiB: all memory32 BARs, and memory64 ones that do not fit the other
    Window mmio64;  // above 4 GiB; what the DSDT's _CRS offers, as the other
    // True if any byte of [base, base + size) is RAM. A BAR there is not placed (RAM wins on real chipsets
    // too).
    std::function<bool(Gpa base, uint64_t size)> overlaps_ram;
  };

  // `mmio`, `doorbells` and `log` outlive it. Nothing is put on `mmio` but BAR windows: the caller places
  // config_ports() and ecam().
  PciBus(Bus& mmio, DoorbellSink& doorbells, Options options, Log& log);
  ~PciBus() override;

  // Errc::out_of_range past slot 31, Errc::no_space if the slot is taken (slot 0 always is). The function
  // outlives its place here, or leaves it in its destructor.
  Result<void> add(unsigned slot, PciFunction&);

  // What firmware does elsewhere: gives each BAR without an address one, naturally aligned, largest first,
  // and enables memory decoding. Call once all functions are added. Errc::no_space names no BAR as lost:
  // those that did not fit stay at 0 with decoding of the others on.
  Result<void> assign_bars();

  // Machine reset: every function back to power-on, then assign_bars().
  void reset();

  IoDevice& config_ports() { return ports_; }  // kPciConfigPortsSize bytes
  IoDevice& ecam() { return ecam_; }           // kPciEcamSize bytes

  // The host bridge and the address latch; functions are StateUnits of their own, loaded in any order.
  std::string_view state_name() const override { return "pci"; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  friend class PciFunction;

  class ConfigPorts final : public IoDevice {
   public:
    explicit ConfigPorts(PciBus& bus) : bus_(bus) {}
    std::string_view name() const override { return "pci-config"; }
    IoStatus read(uint64_t offset, std::span<std::byte> data) override;
    IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

   private:
    PciBus& bus_;
  };
  class Ecam final : public IoDevice {
   public:
    explicit Ecam(PciBus& bus) : bus_(bus) {}
    std::string_view name() const override { return "pci-ecam"; }
    IoStatus read(uint64_t offset, std::span<std::byte> data) override;
    IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

   private:
    PciBus& bus_;
  };

  // A BAR's place on the MMIO bus, and the doorbells that were attached there.
  struct Placed {
    uint64_t base = 0;
    uint64_t size = 0;  // 0: not placed
    IoDevice* device = nullptr;
    std::vector<Doorbell> doorbells;
  };
  struct Slot {
    PciFunction* function = nullptr;
    std::array<Placed, kPciBars> bars;
  };

  // All with mutex_ held.
  void config_read(unsigned slot, unsigned function, uint16_t offset, std::span<std::byte> data);
  void config_write(unsigned slot, unsigned function, uint16_t offset, std::span<const std::byte> data);
  void replace_windows();
  void place(Slot&, unsigned bar, const Window& wanted);
  void unplace(Placed&);
  void assign_bars_locked(bool& all_fit);

  // For PciFunction.
  void forget(PciFunction&);
  void function_loaded();

  Bus& mmio_;
  DoorbellSink& doorbell_sink_;
  Options options_;
  Log& log_;
  mutable std::mutex mutex_;  // taken before a device's own lock, and before Bus's
  std::array<Slot, kPciSlots> slots_{};
  uint32_t address_ = 0;  // the CONFIG_ADDRESS register (PCI 3.0, 3.2.2.3.2)
  ConfigPorts ports_{*this};
  Ecam ecam_{*this};
  std::unique_ptr<PciFunction> host_bridge_;
};

}  // namespace minivmm
