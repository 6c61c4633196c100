// The composed machine before anything of it exists: what --dry-run prints and Machine builds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "boot/acpi/tables.h"
#include "boot/e820.h"
#include "boot/flatcar.h"
#include "boot/smbios.h"
#include "vmm/core/guest_memory.h"
#include "vmm/machine/address_map.h"
#include "vmm/machine/config.h"

namespace minivmm {

class DiskSet;

struct PlannedDevice {
  std::string name;  // "serial0", "virtio-blk.0"
  enum class Space : uint8_t { port, mmio, pci } space;
  uint64_t base = 0;  // port or address; for PCI the slot on bus 0
  uint64_t size = 0;
  std::optional<uint32_t> gsi;  // none: MSI-X, or no interrupt
  std::string spec;             // virtio: what it was configured with
};

struct PlannedVirtio {
  VirtioConfig config;
  unsigned index;  // of its type
  uint32_t slot;   // PCI slot, or place among the virtio-mmio windows
};

struct MachinePlan {
  std::vector<GuestMemory::Range> ram;
  address_map::Window pci_mmio64;  // size 0 where the CPU's addresses leave none
  std::vector<E820Entry> e820;
  std::vector<PlannedDevice> devices;
  std::vector<PlannedVirtio> virtio;
  bool shared_memory = false;       // asked for, or a device needs it
  std::vector<FwCfgConfig> fw_cfg;  // with Ignition's; empty: there is no fw_cfg device
  SmbiosConfig smbios;              // without the processor, which is the host's
  std::string cmdline;
  std::optional<FlatcarBoot> flatcar;  // what the first disk asks for, if it has Flatcar's layout
};

// `physical_address_bits` is the guest CPU's. Looks into the first disk if the kernel is on it or the command
// line has to be made up; it stays open in `disks` for its device. Throws ConfigError or HostError.
MachinePlan plan_machine(const MachineConfig&, unsigned physical_address_bits, DiskSet& disks);
// The plan alone: disks are only looked at.
MachinePlan plan_machine(const MachineConfig&, unsigned physical_address_bits);

// The ACPI view of the same plan.
AcpiConfig plan_acpi(const MachineConfig&, const MachinePlan&);

}  // namespace minivmm
