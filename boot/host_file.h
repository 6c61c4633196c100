// Opening what the user named: a regular file with something in it, or a plain word on what it is.
#pragma once

#include <cstdint>
#include <filesystem>

#include "vmm/core/fd.h"

namespace minivmm {

struct HostFile {
  UniqueFd fd;
  uint64_t size;  // bytes, not 0
};

// `role` is what it is to be: "kernel", "initrd". Throws HostError.
HostFile open_host_file(const std::filesystem::path&, const char* role);

}  // namespace minivmm
