// Which kernel a machine starts and with which command line: what the user says, and what its first disk asks
// for.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "boot/flatcar.h"
#include "devices/block/disk_bytes.h"
#include "vmm/core/byte_source.h"
#include "vmm/core/log.h"
#include "vmm/machine/config.h"

namespace minivmm {

struct BootChoice {
  std::string cmdline;                 // --append included
  std::optional<FlatcarBoot> flatcar;  // kernel or command line come from a disk with Flatcar's layout
};

// Whether the first disk has a say in it at all.
bool asks_disk(const MachineConfig&);

// `disk` may be null where asks_disk() says no, or where there is none. Throws HostError, also where the disk
// has no kernel and none is given.
BootChoice choose_boot(const MachineConfig&, const ByteSource* disk);

// A boot of a machine whose disk has Flatcar's layout. What the firmware and GRUB of a real machine do at
// each start is done here at each: the disk is looked into anew, and a try is taken from the slot.
struct DiskBoot {
  std::string cmdline;
  std::string kernel_name;        // for messages
  std::vector<std::byte> kernel;  // empty: the given one
};
DiskBoot boot_from_disk(const MachineConfig&, DiskBytes& disk, Log&);

}  // namespace minivmm
