// The guest's SMBIOS tables (DMTF DSP0134): who the machine says it is. The 64-bit entry point, version 3.0,
// which every reader of the last decade knows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "vmm/core/guest_memory.h"
#include "vmm/core/stable_uuid.h"

namespace minivmm {

struct SmbiosConfig {
  std::string manufacturer = "minivmm";
  std::string product = "minivmm";
  std::string version = {};  // of the product; empty strings are told as "not specified"
  std::string serial = {};
  std::string sku = {};
  std::string family = "Virtual Machine";
  Uuid uuid = {};  // RFC 9562's order
  // Type 11: free text for whoever looks for it there (smbios-type-11(7)). None may be empty.
  std::vector<std::string> oem_strings = {};

  struct Processor {
    std::string vendor = {};  // CPUID leaf 0
    std::string brand = {};   // CPUID leaves 0x80000002 to 0x80000004
    uint64_t id = 0;          // CPUID leaf 1: EAX, and EDX above it
    uint32_t cores = 1;       // of one socket
  };
  Processor processor = {};
  std::vector<GuestMemory::Range> ram = {};
};

struct SmbiosTables {
  Gpa entry_point;               // == where
  std::vector<std::byte> bytes;  // to be placed there: the entry point, and the structures behind it
};

// Where a guest without EFI looks for the entry point, on multiples of 16 (DSP0134, 5.2.2).
inline constexpr Gpa kSmbiosArea{0xf0000};  // and up to 1 MiB

// Throws ConfigError where they need more than `room` bytes, or where a string cannot be told: SMBIOS has no
// empty ones and none with a NUL.
SmbiosTables build_smbios(const SmbiosConfig&, Gpa where, uint64_t room);

}  // namespace minivmm
