// A Unix socket for a helper that listens, with our connection to it there before the helper is.
#pragma once

#include "vmm/core/fd.h"

namespace minivmm {

struct ServedSocket {
  UniqueFd listening;  // for the helper
  UniqueFd connected;  // to it
};

// The connection waits in the listening socket's queue before anybody serves it, and the name has gone before
// anybody else could use it: nothing to race for, nothing to clean up. Throws HostError.
ServedSocket connect_in_advance();

}  // namespace minivmm
