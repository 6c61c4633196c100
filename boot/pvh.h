// PVH's start-of-day structures (Xen's public/arch-x86/hvm/start_info.h, version 1).
#pragma once

#include "boot/boot_config.h"
#include "vmm/core/guest_memory.h"

namespace minivmm {

// Writes hvm_start_info with memory map, module list (the initrd, if its size is not 0) and RSDP; the command
// line is in its place already. Returns its address, which the guest gets in EBX. Throws HostError if the
// memory map is too long.
Gpa write_start_info(GuestMemory&, const BootConfig&, GuestMemory::Range initrd);

}  // namespace minivmm
