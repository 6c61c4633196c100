// Every guest address, I/O port and interrupt of the machine, in one table.
#pragma once

#include <array>
#include <cstdint>

#include "vmm/core/guest_memory.h"

namespace minivmm::address_map {

struct Window {
  uint64_t base;
  uint64_t size;
  constexpr uint64_t end() const { return base + size; }
};

// --- Guest physical addresses. RAM fills 0 to kRamHole.base and goes on at 4 GiB.
inline constexpr Window kRamHole{0xc000'0000, 0x4000'0000};
inline constexpr Window kAcpiTables{0xe'0000, 0x1'0000};        // the BIOS area, reserved in the E820 map
inline constexpr Window kSmbios{0xf'0000, 0xfff0};              // up to the reset vector
inline constexpr Window kPciMmio32{0xc000'0000, 0x2000'0000};   // BARs
inline constexpr Window kPciEcam{0xe000'0000, 0x0010'0000};     // bus 0
inline constexpr Window kVirtioMmio{0xe010'0000, 0x0002'0000};  // one 4 KiB page a device
inline constexpr uint64_t kVirtioMmioStride = 0x1000;
inline constexpr uint32_t kIoapicBase = 0xfec0'0000;
inline constexpr uint32_t kLapicBase = 0xfee0'0000;
inline constexpr Gpa kKvmIdentityMap{0xfeff'c000};  // KVM's own four pages, for real mode on Intel
inline constexpr Gpa kKvmTss{0xfeff'd000};
inline constexpr uint64_t kRamHighBase = 0x1'0000'0000;
inline constexpr uint64_t kPciMmio64Align = 0x4000'0000;    // the 64-bit window follows RAM,
inline constexpr uint64_t kPciMmio64Size = 0x10'0000'0000;  // as large as the CPU's addresses allow

// --- I/O ports.
inline constexpr Window kPit{0x40, 4};
inline constexpr Window kI8042Data{0x60, 1};
inline constexpr Window kPort61{0x61, 1};
inline constexpr Window kI8042Command{0x64, 1};
inline constexpr Window kRtc{0x70, 2};
inline constexpr Window kCom1{0x3f8, 8};
inline constexpr Window kFwCfg{0x510, 12};  // where guests look for QEMU's
inline constexpr Window kAcpiPm{0x600, 8};
inline constexpr Window kPciConfig{0xcf8, 8};
inline constexpr Window kPciIo{0x1000, 0xf000};  // offered to PCI in the DSDT; no device of ours uses it

// --- Global system interrupts: IOAPIC pins, and below 16 also PIC lines.
inline constexpr uint32_t kPitGsi = 0;
inline constexpr uint32_t kCom1Gsi = 4;
inline constexpr uint32_t kRtcGsi = 8;
inline constexpr uint32_t kAcpiPmGsi = 9;
inline constexpr std::array<uint32_t, 15> kVirtioMmioGsis{16, 17, 18, 19, 20, 21, 22, 23,
                                                          5,  6,  7,  10, 11, 12, 13};

inline constexpr uint32_t kMostCpus = 254;  // 8-bit APIC ids; 255 is broadcast

}  // namespace minivmm::address_map
