// The guest's memory map as a PC's firmware tells it (ACPI 6.5, 15: "System Address Map Interfaces").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/core/guest_memory.h"

namespace minivmm {

enum class E820Type : uint32_t { ram = 1, reserved = 2, acpi = 3, nvs = 4 };

struct E820Entry {
  uint64_t base;
  uint64_t size;  // bytes
  E820Type type;
  bool operator==(const E820Entry&) const = default;
};

inline constexpr size_t kMaxE820Entries = 128;  // boot_params.e820_table; more would need SETUP_E820_EXT

// A PC's first MiB: the EBDA's KiB, the video hole, and the BIOS area where the ACPI tables are.
inline constexpr uint64_t kEbdaBase = 0x9fc00;
inline constexpr uint64_t kVideoHole = 0xa0000;
inline constexpr uint64_t kBiosArea = 0xe0000;
inline constexpr uint64_t kHighMemory = 0x100000;

// RAM less what is reserved (ECAM, firmware tables: RAM or not), sorted and disjoint. The EBDA and the BIOS
// area are always reserved, the video hole always absent.
std::vector<E820Entry> build_e820(std::span<const GuestMemory::Range> ram,
                                  std::span<const GuestMemory::Range> reserved);
// The same for the RAM that `memory` has.
std::vector<E820Entry> build_e820(const GuestMemory& memory, std::span<const GuestMemory::Range> reserved);

}  // namespace minivmm
