// The files of the fw_cfg device, from the configuration (QEMU, docs/specs/fw_cfg.rst).
#pragma once

#include <memory>
#include <vector>

#include "devices/fw_cfg.h"
#include "vmm/machine/config.h"

namespace minivmm {

// All that is to be published: MachineConfig::ignition under the name that each Ignition looks for, and
// MachineConfig::fw_cfg. Throws ConfigError on a name that cannot be published, or comes twice.
std::vector<FwCfgConfig> fw_cfg_entries(const MachineConfig&);

// The device with the files read, each once; none where there is nothing to publish. Throws ConfigError or
// HostError.
std::unique_ptr<FwCfg> make_fw_cfg(const MachineConfig&, GuestMemory&, Log&);

}  // namespace minivmm
