// What a loaded kernel asks of vCPU 0: the CPU state at its first instruction, in plain form. The KVM layer
// turns it into register structs; the other vCPUs wait for INIT/SIPI.
#pragma once

#include <cstdint>
#include <string>

#include "vmm/core/boot_cpu_state.h"
#include "vmm/core/guest_memory.h"

namespace minivmm {

struct BootInfo : BootCpuState {
  enum class Mode : uint8_t {
    long64,         // Linux x86 boot protocol, "64-bit Boot Protocol": paging on, 4 levels
    long64_5level,  // the same with CR4.LA57
    protected32,    // PVH (Xen's docs/misc/pvh.pandoc): 32-bit protected mode, paging off
  };
  Mode mode = Mode::long64;

  std::string kernel_kind;  // for people: "bzImage 6.1.0 (LZ4), entered directly"
  // Where things went: for --dry-run, statistics and tests.
  GuestMemory::Range kernel{};
  GuestMemory::Range initrd{};   // size 0 without one
  uint64_t virtual_offset = 0;   // KASLR: bytes the kernel's addresses moved by
  uint64_t physical_offset = 0;  // and its place from the preferred one
};

}  // namespace minivmm
