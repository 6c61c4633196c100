// CPU state at a kernel's first instruction, and the GDT and page tables it stands on.
#pragma once

#include "boot/boot_info.h"
#include "vmm/core/guest_memory.h"

namespace minivmm {

// Linux's 64-bit boot protocol: flat segments __BOOT_CS 0x10 and __BOOT_DS 0x18, the first 4 GiB mapped one
// to one (kernel, boot_params, command line and initrd lie there), interrupts off, boot_params in RSI.
BootInfo enter_long64(GuestMemory&, uint64_t rip, Gpa boot_params, bool five_levels);

// PVH: 32-bit protected mode, paging off, flat segments, hvm_start_info in EBX (Xen, docs/misc/pvh.pandoc).
BootInfo enter_protected32(GuestMemory&, uint32_t rip, Gpa start_info);

}  // namespace minivmm
