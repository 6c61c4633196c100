// Which file system a disk or partition holds, by its superblock's magic.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "boot/root_device.h"

namespace minivmm {

struct FileSystem {
  std::string name;  // as the kernel calls it: "ext4"
  bool read_only;
};

// Looks into `size` bytes from `offset` on (both in bytes). What cannot be read is no file system.
std::optional<FileSystem> probe_file_system(const DiskReader&, uint64_t offset, uint64_t size);

}  // namespace minivmm
