// The register state a CPU starts a loaded kernel in, in plain terms: what boot/ asks for, without KVM's
// types.
#pragma once

#include <cstdint>

namespace minivmm {

struct BootCpuState {
  enum class Mode : uint8_t { protected32, long64, long64_5level };
  Mode mode = Mode::long64;
  uint64_t rip = 0;
  uint64_t rsp = 0;
  uint64_t rbx = 0;  // PVH: hvm_start_info
  uint64_t rsi = 0;  // Linux: boot_params
  uint64_t cr3 = 0;  // unused in protected32
  uint64_t gdt_base = 0;
  uint16_t gdt_limit = 0;
  uint16_t code_selector = 0x10;  // x86/boot: "64-bit boot protocol": __BOOT_CS
  uint16_t data_selector = 0x18;  // __BOOT_DS
};

}  // namespace minivmm
