// What an errno of a disk image's file means.
#pragma once

#include <cerrno>
#include <cstdint>

#include "vmm/core/error.h"

namespace minivmm {

// `error`: -errno.
inline Result<void> io_failure(int64_t error) {
  switch (-error) {
    case ENOSPC:
    case EDQUOT: return fail(Errc::no_space, "the disk image's file system is full");
    case EOPNOTSUPP:
    case ENOSYS: return fail(Errc::unsupported, "the disk image's file system cannot do this");
    default: return fail(Errc::io, "the disk image's storage failed");
  }
}

}  // namespace minivmm
