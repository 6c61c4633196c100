// The file system of a partition, of those that can be read without the guest.
#pragma once

#include <expected>
#include <memory>
#include <string>

#include "boot/disk/file_reader.h"
#include "vmm/core/byte_source.h"

namespace minivmm {

// `partition` must outlive the reader. The error is what is there instead, for a message: "xfs, which minivmm
// does not read", "no file system that minivmm knows".
std::expected<std::unique_ptr<FileReader>, std::string> open_file_system(const ByteSource& partition);

}  // namespace minivmm
