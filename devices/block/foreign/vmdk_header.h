// Which VMware images are let through to qemu-nbd: those that lie in one file and need no other. A VMDK may
// name any number of files of the host, as its extents or as its parent, and its reader would open them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "vmm/core/error.h"

namespace minivmm {

// Reads `out.size()` bytes at an offset, which are zeroes past the file's end.
using ImageReader = std::function<Result<void>(uint64_t offset, std::span<std::byte> out)>;

// "VMware Virtual Disk Format 5.0", "Hosted Sparse Extent Header" and "The Descriptor File". Empty: it is
// monolithicSparse or streamOptimized, without a parent. Else why it cannot be used.
std::string check_vmdk(const ImageReader& read, uint64_t file_size);

}  // namespace minivmm
