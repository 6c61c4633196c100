// Which root= the machine's first disk asks for.
#pragma once

#include "boot/root_device.h"
#include "vmm/machine/config.h"

namespace minivmm {

// Looks into the first virtio-blk disk. No disk, or nothing to be found on it: an empty root. Throws
// HostError when the disk cannot be read.
RootDevice find_root_disk(const MachineConfig&);

}  // namespace minivmm
