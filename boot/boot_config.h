// What the machine tells the boot layer about itself.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "boot/e820.h"
#include "boot/initrd.h"
#include "vmm/core/guest_memory.h"

namespace minivmm {

struct BootConfig {
  std::string cmdline = {};
  std::shared_ptr<const Initrd> initrd = {};  // none: nullptr
  std::vector<E820Entry> e820 = {};           // from build_e820(); empty: all of guest memory
  // RAM that nothing is to be placed on, beyond what e820 keeps out.
  std::vector<GuestMemory::Range> reserved = {};
  Gpa rsdp{0};                  // 0: no ACPI tables
  bool has_la57 = false;        // the guest CPU has 5-level paging: CPUID.(7,0):ECX[16]
  bool memory_is_zero = false;  // fresh RAM that nobody wrote to: spares zeroing .bss
  bool unpack = true;           // false: always let the kernel's own decompressor work
  bool prefer_pvh = true;       // false: enter an ELF at its plain entry even if it has a PVH note
};

// Low guest memory that load() writes: the machine keeps its own tables out of it.
inline constexpr Gpa kBootDataBase{0x500};
inline constexpr uint64_t kBootDataSize = 0x20000 - 0x500;

}  // namespace minivmm
