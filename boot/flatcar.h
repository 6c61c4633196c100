// Flatcar Container Linux disks: what the GRUB on such a disk would start, and with which command line.
//
// The disk's layout and GRUB's decisions are those of Flatcar's image build (github.com/flatcar/scripts:
// build_library/disk_layout.json, grub.cfg) and of its GRUB (grub-core/commands/gptprio.c).
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "boot/disk/gpt.h"
#include "vmm/core/byte_sink.h"
#include "vmm/core/byte_source.h"

namespace minivmm {

struct FlatcarBoot {
  std::string cmdline;
  std::string kernel;  // on the EFI partition: "/flatcar/vmlinuz-a"; empty where one was given
  char slot = 'a';     // of the /usr partition: USR-A or USR-B
  bool first_boot = false;
  uint32_t usr_partition = 0;         // its number
  uint32_t tries = 0;                 // as the disk has them; 0: it has proved itself
  std::vector<std::string> warnings;  // one line each
};

struct FlatcarRefusal {
  bool is_flatcar;     // false: the disk is of another kind, and there is nothing wrong with that
  std::string reason;  // "no GPT"
};

// `given_kernel`: the first bytes (kFlatcarKernelHead of them) of the kernel that is to be started; without,
// the one on the disk is, and must be there.
std::expected<FlatcarBoot, FlatcarRefusal> inspect_flatcar(
    const ByteSource& disk, std::optional<std::span<const std::byte>> given_kernel);

// The kernel that `boot` names, whole.
Result<std::vector<std::byte>> read_flatcar_kernel(const ByteSource& disk, const FlatcarBoot& boot);

// Takes one of the slot's tries, as gptprio.next does before each boot, so that an update that does not come
// up is given up. Nothing is written where there is none to take.
Result<void> take_flatcar_try(const ByteSource& disk, ByteSink& to, const FlatcarBoot& boot);

// The dm-verity root hash of /usr that a Flatcar bzImage carries: 64 lower-case hexadecimal digits at offset
// 0x40. nullopt: this is none.
inline constexpr size_t kFlatcarKernelHead = 0x80;  // bytes
std::optional<std::string> flatcar_usrhash(std::span<const std::byte> kernel);

}  // namespace minivmm
