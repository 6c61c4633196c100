// Finds what root= a disk image asks for. Everything on the disk is untrusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "vmm/core/error.h"

namespace minivmm {

// Reads `out.size()` bytes at `offset` (bytes) of the disk as the guest would see it.
using DiskReader = std::function<Result<void>(uint64_t offset, std::span<std::byte> out)>;

struct RootDevice {
  std::string root = {};         // "/dev/vda", "PARTUUID=…"; empty: none was found
  std::string file_system = {};  // "ext4", "squashfs", …; empty where it is not known
  bool read_only = false;        // a file system that cannot be mounted writable
};

// `whole_disk` is what the guest calls the disk ("/dev/vda"). Reads a few KiB and the partition table.
RootDevice find_root_device(const DiskReader& read, uint64_t disk_size_bytes, const std::string& whole_disk);

}  // namespace minivmm
