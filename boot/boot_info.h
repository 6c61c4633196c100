// What a loaded kernel asks of vCPU 0: the CPU state at its first instruction, in plain form. The KVM layer
// turns it into register structs; the other vCPUs wait for INIT/SIPI.
#pragma once

#include <cstdint>
#include <string>

#include "vmm/core/guest_memory.h"

namespace minivmm {

// A segment register with its hidden part (Intel SDM 3A, 3.4.3 and 3.4.5).
struct SegmentState {
  uint16_t selector = 0;
  uint64_t base = 0;
  uint32_t limit = 0;  // in bytes, as the CPU caches it: 0xffffffff for 4 GiB
  uint8_t type = 0;    // the descriptor's 4-bit type field
  uint8_t dpl = 0;
  bool present = false;
  bool code_or_data = false;  // S: clear for system segments such as the TSS
  bool long_mode = false;     // L
  bool default_big = false;   // D/B
  bool granular = false;      // G
};

struct BootInfo {
  enum class Mode : uint8_t {
    long64,         // Linux x86 boot protocol, "64-bit Boot Protocol": paging on, 4 levels
    long64_5level,  // the same with CR4.LA57
    protected32,    // PVH (Xen's docs/misc/pvh.pandoc): 32-bit protected mode, paging off
  };
  Mode mode = Mode::long64;

  uint64_t rip = 0;
  uint64_t rsp = 0;
  uint64_t rflags = 2;  // only the reserved bit: interrupts are off
  uint64_t rsi = 0;     // long64: physical address of boot_params
  uint64_t rbx = 0;     // protected32: physical address of hvm_start_info

  uint64_t cr0 = 0;
  uint64_t cr3 = 0;
  uint64_t cr4 = 0;
  uint64_t efer = 0;
  SegmentState cs, data, tss;  // `data` goes into DS, ES, SS, FS and GS; LDTR is null, the IDT's limit 0
  uint64_t gdt_base = 0;
  uint16_t gdt_limit = 0;

  std::string kernel_kind;  // for people: "bzImage 6.1.0 (LZ4), entered directly"
  // Where things went: for --dry-run, statistics and tests.
  GuestMemory::Range kernel{};
  GuestMemory::Range initrd{};   // size 0 without one
  uint64_t virtual_offset = 0;   // KASLR: bytes the kernel's addresses moved by
  uint64_t physical_offset = 0;  // and its place from the preferred one
};

}  // namespace minivmm
