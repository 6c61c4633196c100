// Which file system a disk or partition holds, by its superblock's magic.
#pragma once

#include <optional>
#include <string>

#include "vmm/core/byte_source.h"

namespace minivmm {

struct FileSystem {
  std::string name;  // as the kernel calls it: "ext4"
  bool read_only;
};

// What cannot be read is no file system.
std::optional<FileSystem> probe_file_system(const ByteSource&);

}  // namespace minivmm
