// Disks in the shape of Flatcar's image, small: GPT, a FAT32 EFI partition, /usr slots, an OEM partition.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "boot/disk/guid.h"
#include "tests/unit/boot/kernel_builder.h"

namespace minivmm::testing {

inline constexpr Guid kFlatcarUsrA = Guid::of("7130c94a-213a-4e5a-8e26-6cce9662f132");
inline constexpr Guid kFlatcarUsrB = Guid::of("e03dd35c-7c2d-4a47-b3fe-27f15780a57c");
inline constexpr Guid kFreshGuid = Guid::of("00000000-0000-0000-0000-000000000001");

struct SlotSpec {
  unsigned priority = 0;
  unsigned tries = 0;
  bool successful = false;
};

struct FlatcarSpec {
  SlotSpec a = {.priority = 1, .successful = true};  // as an image is born
  SlotSpec b = {};
  std::optional<std::string> kernel_a = std::nullopt;  // nullopt: flatcar_kernel('a')
  std::optional<std::string> kernel_b = std::nullopt;
  bool first_boot = true;
  std::optional<std::string> oem = "set oem_id=\"qemu\"\n";  // nullopt: no file
  std::optional<Bytes> oem_partition = std::nullopt;         // instead of a FAT with that file
  Guid disk = kFreshGuid;
  uint32_t efi_clusters = 512;  // of 512 bytes
};

// Not one that runs: some bytes with a hash of 64 `digit`s at 0x40.
std::string flatcar_kernel(char digit);
Bytes make_flatcar_disk(const FlatcarSpec&);

}  // namespace minivmm::testing
