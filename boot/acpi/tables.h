// The guest's ACPI tables: a hardware-reduced ACPI 6.5 machine (RSDP, XSDT, FADT, MADT, MCFG, DSDT).
// Everything that has an address or an interrupt comes from AcpiConfig; nothing here knows the machine's
// address map.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "vmm/core/guest_memory.h"

namespace minivmm {

struct AcpiRange {
  uint64_t base = 0;
  uint64_t size = 0;  // 0: there is none
};

struct AcpiPciRoot {
  AcpiRange ecam = {};    // 1 MiB for each bus
  uint8_t last_bus = 0;   // buses 0 to this one
  AcpiRange mmio32 = {};  // windows that BARs live in
  AcpiRange mmio64 = {};
  AcpiRange io = {};  // I/O ports below 64 KiB; 0xcf8 to 0xcff are cut out of it
  struct Intx {
    uint8_t device;  // number on bus 0
    uint8_t pin;     // 0: INTA#
    uint32_t gsi;    // level, active low on the wire as PCI has it unless active_high
    bool active_high = false;
  };
  std::vector<Intx> intx = {};  // _PRT; none where devices have MSI-X only
};

struct AcpiSerial {
  uint16_t port = 0x3f8;
  uint32_t gsi = 4;
};

struct AcpiVirtioMmio {
  AcpiRange registers = {};
  uint32_t gsi = 0;
  bool level_triggered = false;
};

// MADT interrupt source override: ISA interrupt `source` arrives at `gsi` (ACPI 6.5, 5.2.12.5).
struct AcpiInterruptOverride {
  uint8_t source = 0;
  uint32_t gsi = 0;
  bool level_triggered = false;
  bool active_low = false;
};

struct AcpiConfig {
  std::vector<uint8_t> apic_ids = {};  // one for each vCPU; none may be 255
  uint32_t lapic_base = 0xfee00000;
  uint32_t ioapic_base = 0xfec00000;
  uint8_t ioapic_id = 0;
  bool has_8259 = true;
  std::vector<AcpiInterruptOverride> overrides = {};

  std::optional<AcpiPciRoot> pci = {};
  std::vector<AcpiSerial> serial = {};
  std::optional<uint32_t> rtc_gsi = {};  // CMOS RTC at ports 0x70 and 0x71
  bool has_i8042 = false;                // keyboard controller at 0x60 and 0x64 that the guest should drive
  std::vector<AcpiVirtioMmio> virtio_mmio = {};
  std::optional<uint16_t> fw_cfg_port = {};  // QEMU's fw_cfg device: 12 I/O ports from here on

  // The power-management block, in I/O ports: +0 u32 pending events (bit 0: power button; reading clears),
  // +4 SLEEP_CONTROL, +5 SLEEP_STATUS, +6 RESET, one byte each.
  uint16_t pm_port = 0;
  uint32_t pm_gsi = 0;  // the generic event device's interrupt
  bool pm_level_triggered = false;
  uint8_t s5_type = 5;  // what SLP_TYP holds for power-off
  uint8_t reset_value = 1;
};

struct AcpiTables {
  Gpa rsdp;                      // == where
  std::vector<std::byte> bytes;  // to be placed at `where`
};

// The part that ACPI has of the area of the BIOS that a guest scans for the RSDP (ACPI 6.5, 5.2.5.1). SMBIOS,
// which a guest looks for in the upper half only, has the rest.
inline constexpr Gpa kAcpiArea{0xe0000};
inline constexpr uint64_t kAcpiAreaSize = 0x10000;

// Lays the tables out from `where` (16-byte aligned) on, the RSDP first. Throws HostError if the
// configuration makes no sense or the tables need more than the area's end leaves.
AcpiTables build_acpi(const AcpiConfig&, Gpa where = kAcpiArea);

}  // namespace minivmm
