// Where the boot layer's own data lies in the guest's first 128 KiB. The guest reads it once while it starts
// and may then use the memory as it likes; ours is rewritten at each start.
#pragma once

#include <cstdint>

#include "boot/boot_config.h"

namespace minivmm {

inline constexpr Gpa kGdtAddress{0x500};         // 6 descriptors
inline constexpr Gpa kStartInfoAddress{0x6000};  // PVH: hvm_start_info, module list, memory map: one page
inline constexpr Gpa kBootParamsAddress{0x7000};
inline constexpr Gpa kStackTop{0x8ff0};    // one page; startup_64 takes its own at once
inline constexpr Gpa kPageTables{0x9000};  // up to 7 pages: PML5, PML4, PDPT and 4 page directories
inline constexpr Gpa kCommandLineAddress{0x10000};
inline constexpr uint64_t kCommandLineArea = 0x10000;

static_assert(value(kCommandLineAddress) + kCommandLineArea == value(kBootDataBase) + kBootDataSize);

}  // namespace minivmm
