// KASLR done by us as the kernel's decompressor does it: a random place, and the relocations that follow from
// it (Linux's arch/x86/boot/compressed/misc.c and kaslr.c, arch/x86/tools/relocs.c describe the format).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "vmm/core/error.h"

namespace minivmm {

inline constexpr uint64_t kKernelMap = 0xffffffff80000000;       // __START_KERNEL_map
inline constexpr uint64_t kKernelImageSize = uint64_t{1} << 30;  // KERNEL_IMAGE_SIZE

// What is appended to the ELF image. Read from its end backwards: 32-bit places, 32-bit places that hold a
// negative offset (per-CPU; not there since Linux 6.15), 64-bit places; each list ends with a 0. Entries are
// link addresses, sign-extended from 32 bits.
class RelocationTable {
 public:
  // `table` is all that follows the ELF; nullopt if it does not have exactly this shape.
  static std::optional<RelocationTable> parse(std::span<const std::byte> table);

  // Moves every place by `delta` bytes. `image` is the kernel as it lies in memory; its first byte was linked
  // to `link_address`. Errc::corrupt if a place is outside `image`: some are moved by then.
  Result<void> apply(std::span<std::byte> image, uint64_t link_address, uint64_t delta) const;

 private:
  std::span<const std::byte> places32_, inverse32_, places64_;  // 4 bytes an entry, unaligned
};

// Uniform in [0, bound); `bound` is not 0. From getrandom(2).
uint64_t random_below(uint64_t bound);

// How far to move a kernel that needs `image_size` bytes and was linked `link_offset` bytes into the kernel
// map.
uint64_t random_virtual_offset(uint64_t link_offset, uint64_t image_size, uint64_t alignment);

}  // namespace minivmm
