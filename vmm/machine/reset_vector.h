// What stands where a PC's firmware begins. Linux on a hardware-reduced ACPI machine without EFI resets by a
// jump to there in real mode (arch/x86/kernel/reboot.c: BOOT_EFI, then BOOT_BIOS), ACPI's reset register or
// not.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "vmm/core/guest_memory.h"

namespace minivmm {

inline constexpr Gpa kResetVector{0xffff0};  // F000:FFF0 and FFFF:0000

// Real-mode code that writes `value` to `port` and then waits.
constexpr std::array<std::byte, 9> reset_vector_code(uint16_t port, uint8_t value) {
  return {std::byte{0xba},
          static_cast<std::byte>(port & 0xff),
          static_cast<std::byte>(port >> 8),  // mov $port, %dx
          std::byte{0xb0},
          static_cast<std::byte>(value),  // mov $value, %al
          std::byte{0xee},                // out %al, %dx
          std::byte{0xf4},                // 1: hlt
          std::byte{0xeb},
          std::byte{0xfd}};  // jmp 1b
}

}  // namespace minivmm
