// The state that a CPU starts a loaded kernel in: what boot/ asks for and vmm/kvm sets, without KVM's types.
#pragma once

#include <cstdint>

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

struct BootCpuState {
  uint64_t rip = 0;
  uint64_t rsp = 0;
  uint64_t rflags = 2;  // only the reserved bit: interrupts are off
  uint64_t rsi = 0;     // Linux: physical address of boot_params
  uint64_t rbx = 0;     // PVH: physical address of hvm_start_info
  uint64_t cr0 = 0;
  uint64_t cr3 = 0;
  uint64_t cr4 = 0;
  uint64_t efer = 0;
  SegmentState cs, data, tss;  // `data` goes into DS, ES, SS, FS and GS; LDTR is null, the IDT's limit 0
  uint64_t gdt_base = 0;
  uint16_t gdt_limit = 0;
};

}  // namespace minivmm
