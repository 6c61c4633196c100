// The kernel inside a bzImage, unpacked by us and entered directly: what its own decompressor would do in the
// guest, with the same results.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "boot/boot_config.h"
#include "boot/boot_params.h"
#include "boot/elf.h"
#include "boot/placement.h"
#include "boot/unpack.h"

namespace minivmm {

struct DirectEntry {
  uint64_t entry;  // physical address of startup_64
  bool randomized;
  bool five_levels;
  GuestMemory::Range kernel;
  uint64_t virtual_offset;  // bytes
  uint64_t physical_offset;
};

class UnpackedKernel {
 public:
  // Reads the payload's first page. nullopt for a compression or a structure that we do not know to the last
  // detail: then the guest's decompressor does the work.
  static std::optional<UnpackedKernel> plan(const SetupHeader&, std::span<const std::byte> payload);

  Compression compression() const { return compression_; }

  // Unpacks into guest memory, moves, relocates. nullopt if there is no room for it or its relocations are
  // not as expected; guest RAM that is free in `map` may have changed then. Throws HostError: damaged
  // payload.
  std::optional<DirectEntry> load(GuestMemory&, const BootConfig&, const PlacementMap& map) const;

 private:
  UnpackedKernel() = default;
  std::optional<uint64_t> choose_base(const PlacementMap&, bool randomize, const std::string& cmdline) const;
  // The bytes from the beginning of the unpacked file to the end of all that the kernel takes.
  uint64_t footprint() const;
  // Where the file's layout is wider than memory's, segments move down; returns the end of the last one.
  uint64_t move_segments(std::span<std::byte> area) const;

  SetupHeader header_{};
  Compression compression_{};
  std::span<const std::byte> data_;  // compressed
  uint64_t unpacked_size_ = 0;       // of ELF and relocation table
  uint64_t lead_ = 0;                // bytes of the file before the first segment
  ElfLayout elf_{};
};

}  // namespace minivmm
