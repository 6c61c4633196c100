// Who a machine is: what its UUID, its MAC addresses and its host name come from, and what SMBIOS tells of
// it.
#pragma once

#include <span>
#include <string>

#include "boot/smbios.h"
#include "devices/seed/nocloud.h"
#include "vmm/core/stable_uuid.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/machine/config.h"

namespace minivmm {

// MachineConfig::uuid, or one that is derived from machine_identity(), the user and the host.
Uuid machine_uuid(const MachineConfig&);

// Throws ConfigError on what SMBIOS and systemd cannot take.
void check_identity(const MachineConfig&);

// What SMBIOS tells, all but the processor. Reads the credentials' files, each once. Throws HostError or
// ConfigError.
SmbiosConfig plan_smbios(const MachineConfig&, std::span<const GuestMemory::Range> ram);
SmbiosConfig::Processor smbios_processor(const CpuidTable&, uint32_t cpus);

// Of the cloud-init seed that is made up where the user gives none.
NoCloudDefaults nocloud_defaults(const MachineConfig&);

}  // namespace minivmm
