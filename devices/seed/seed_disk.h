// The seed as a disk of the machine.
#pragma once

#include <string_view>

#include "devices/block/open_disk.h"
#include "devices/seed/nocloud.h"

namespace minivmm {

// For virtio-blk: read-only, one queue, and a serial by which a guest can tell the disk.
inline constexpr std::string_view kSeedDiskSpec = "cloud-init,readonly=on,queues=1,serial=cidata";

// Throws ConfigError or HostError.
OpenedDisk make_seed_disk(const CloudInitConfig&, const NoCloudDefaults&);

}  // namespace minivmm
