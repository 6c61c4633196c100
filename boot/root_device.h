// Finds what root= a disk image asks for. Everything on the disk is untrusted.
#pragma once

#include <string>

#include "vmm/core/byte_source.h"

namespace minivmm {

struct RootDevice {
  std::string root = {};         // "/dev/vda", "PARTUUID=…"; empty: none was found
  std::string file_system = {};  // "ext4", "squashfs", …; empty where it is not known
  bool read_only = false;        // a file system that cannot be mounted writable
};

// `whole_disk` is what the guest calls the disk ("/dev/vda"). Reads a few KiB and the partition table.
RootDevice find_root_device(const ByteSource& disk, const std::string& whole_disk);

}  // namespace minivmm
