#include "vmm/machine/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "devices/acpi_pm.h"
#include "devices/block/disk_set.h"
#include "devices/seed/seed_disk.h"
#include "virtio/registry.h"
#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"
#include "vmm/machine/boot_choice.h"
#include "vmm/machine/fw_cfg_config.h"
#include "vmm/machine/identity.h"

namespace minivmm {

namespace {

using address_map::Window;

constexpr unsigned kMostPciSlots = 32;

void plan_memory(MachinePlan& plan, const MachineConfig& config, unsigned address_bits) {
  const uint64_t low = std::min(config.memory, address_map::kRamHole.base);
  const uint64_t high = config.memory - low;
  const uint64_t limit = uint64_t{1} << std::min(address_bits, 52U);
  uint64_t end = low;
  plan.ram.push_back({Gpa{0}, low});
  if (high != 0) {
    if (high > limit || address_map::kRamHighBase > limit - high) {
      throw HostError(ENOMEM,
                      fmt::format("cannot give the guest {} of memory: its CPU has {} physical address bits; "
                                  "give it less than {} with --memory",
                                  format_size(config.memory), address_bits,
                                  format_size(limit - address_map::kRamHole.size)));
    }
    plan.ram.push_back({Gpa{address_map::kRamHighBase}, high});
    end = address_map::kRamHighBase + high;
  }
  // The 64-bit window: after RAM, as much as there is up to its usual size.
  const uint64_t align = address_map::kPciMmio64Align;
  const uint64_t base = (std::max(end, address_map::kRamHighBase) + align - 1) / align * align;
  plan.pci_mmio64 = {base, base < limit ? std::min(address_map::kPciMmio64Size, limit - base) : 0};
}

void plan_platform(MachinePlan& plan, const MachineConfig& config) {
  plan.fw_cfg = fw_cfg_entries(config);
  using Space = PlannedDevice::Space;
  auto port = [&](const char* name, const Window& w, std::optional<uint32_t> gsi) {
    plan.devices.push_back({name, Space::port, w.base, w.size, gsi, ""});
  };
  port("i8254", address_map::kPit, address_map::kPitGsi);
  port("i8042", address_map::kI8042Data, std::nullopt);
  port("port61", address_map::kPort61, std::nullopt);
  port("cmos-rtc", address_map::kRtc, address_map::kRtcGsi);
  port("serial0", address_map::kCom1, address_map::kCom1Gsi);
  if (!plan.fw_cfg.empty()) port("fw-cfg", address_map::kFwCfg, std::nullopt);
  port("acpi-pm", address_map::kAcpiPm, address_map::kAcpiPmGsi);
  if (config.transport == Transport::pci) {
    port("pci-config", address_map::kPciConfig, std::nullopt);
    plan.devices.push_back(
        {"pci-ecam", Space::mmio, address_map::kPciEcam.base, address_map::kPciEcam.size, {}, ""});
  }
}

bool says_none(const VirtioConfig& device) {
  const auto types = virtio_device_types();
  const auto type = std::ranges::find(types, device.type, &VirtioDeviceType::name);
  return type != types.end() && !type->absent_spec.empty() && device.spec == type->absent_spec;
}

size_t most_virtio(bool pci) {
  return pci ? kMostPciSlots - 1 : address_map::kVirtioMmioGsis.size();
}

void add_virtio(MachinePlan& plan, bool pci, const VirtioConfig& device) {
  using Space = PlannedDevice::Space;
  const auto same_type = [&](const PlannedVirtio& v) { return v.config.type == device.type; };
  const auto index = static_cast<unsigned>(std::ranges::count_if(plan.virtio, same_type));
  // The host bridge has PCI slot 0.
  const auto slot = static_cast<uint32_t>(plan.virtio.size() + (pci ? 1 : 0));
  const std::string name = fmt::format("virtio-{}.{}", device.type, index);
  plan.virtio.push_back({device, index, slot});
  std::string shown = device.spec;
  std::ranges::replace(shown, '\n', ' ');
  if (pci) {
    plan.devices.push_back({name, Space::pci, slot, 0, {}, shown});
  } else {
    plan.devices.push_back({name, Space::mmio,
                            address_map::kVirtioMmio.base + slot * address_map::kVirtioMmioStride,
                            address_map::kVirtioMmioStride, address_map::kVirtioMmioGsis.at(slot), shown});
  }
}

// The devices to be: each spec that does not say none, and one for those that share theirs.
std::vector<VirtioConfig> virtio_devices(const MachineConfig& config) {
  std::vector<VirtioConfig> devices;
  std::map<std::string, size_t> shared;  // type to its place in `devices`
  for (const VirtioConfig& device : config.virtio) {
    if (says_none(device)) continue;
    const auto type = std::ranges::find(virtio_device_types(), device.type, &VirtioDeviceType::name);
    const bool known = type != virtio_device_types().end();
    if (known && type->check != nullptr) type->check(device.spec, config.memory);
    const bool joins = known && type->joins != nullptr && type->joins(device.spec);
    const auto other = joins ? shared.find(device.type) : shared.end();
    if (other != shared.end()) {
      devices[other->second].spec += "\n" + device.spec;
      continue;
    }
    if (joins) shared.emplace(device.type, devices.size());
    devices.push_back(device);
  }
  return devices;
}

bool shares_memory(const VirtioConfig& device) {
  const auto types = virtio_device_types();
  const auto type = std::ranges::find(types, device.type, &VirtioDeviceType::name);
  return type != types.end() && type->shares_memory != nullptr && type->shares_memory(device.spec);
}

void plan_virtio(MachinePlan& plan, const MachineConfig& config) {
  const bool pci = config.transport == Transport::pci;
  const std::vector<VirtioConfig> devices = virtio_devices(config);
  const size_t wanted = devices.size() + (config.cloud_init.wanted() ? 1 : 0);
  if (wanted > most_virtio(pci)) {
    throw ConfigError(fmt::format("{} virtio devices are too many: --transport {} has room for {}", wanted,
                                  pci ? "pci" : "mmio", most_virtio(pci)));
  }
  for (const VirtioConfig& device : devices) {
    add_virtio(plan, pci, device);
  }
}

// Behind the user's own disks, whose names in the guest it leaves as they are.
void plan_seed(MachinePlan& plan, const MachineConfig& config, DiskSet& disks) {
  if (!config.cloud_init.wanted()) return;
  add_virtio(plan, config.transport == Transport::pci, {"blk", std::string(kSeedDiskSpec)});
  disks.put(plan.virtio.back().index, make_seed_disk(config.cloud_init, nocloud_defaults(config)));
}

void plan_boot(MachinePlan& plan, const MachineConfig& config, DiskSet& disks) {
  const auto first =
      std::ranges::find(plan.virtio, "blk", [](const PlannedVirtio& v) { return v.config.type; });
  std::optional<DiskBytes> bytes;
  if (asks_disk(config) && first != plan.virtio.end()) {
    bytes.emplace(*disks.open(first->index, first->config.spec).backend);
  }
  BootChoice choice = choose_boot(config, bytes ? &*bytes : nullptr);
  plan.cmdline = std::move(choice.cmdline);
  plan.flatcar = std::move(choice.flatcar);
}

}  // namespace

MachinePlan plan_machine(const MachineConfig& config, unsigned physical_address_bits) {
  Log quiet;
  DiskSet disks(DiskSet::Purpose::inspect, quiet);
  return plan_machine(config, physical_address_bits, disks);
}

MachinePlan plan_machine(const MachineConfig& config, unsigned physical_address_bits, DiskSet& disks) {
  check_config(config);
  MachinePlan plan;
  plan_memory(plan, config, physical_address_bits);
  const GuestMemory::Range ecam{Gpa{address_map::kPciEcam.base}, address_map::kPciEcam.size};
  plan.e820 = build_e820(plan.ram, std::span(&ecam, config.transport == Transport::pci ? 1 : 0));
  plan_platform(plan, config);
  plan_virtio(plan, config);
  plan.shared_memory =
      config.memory_options.shared ||
      std::ranges::any_of(plan.virtio, [](const PlannedVirtio& v) { return shares_memory(v.config); });
  plan_boot(plan, config, disks);
  plan_seed(plan, config, disks);
  plan.smbios = plan_smbios(config, plan.ram);
  constexpr uint64_t kProcessorStrings = 128;                                             // still to come
  build_smbios(plan.smbios, kSmbiosArea, address_map::kSmbios.size - kProcessorStrings);  // it has to fit
  return plan;
}

AcpiConfig plan_acpi(const MachineConfig& config, const MachinePlan& plan) {
  AcpiConfig acpi;
  for (uint32_t cpu = 0; cpu < config.cpus; ++cpu) acpi.apic_ids.push_back(static_cast<uint8_t>(cpu));
  acpi.lapic_base = address_map::kLapicBase;
  acpi.ioapic_base = address_map::kIoapicBase;
  acpi.serial.push_back({static_cast<uint16_t>(address_map::kCom1.base), address_map::kCom1Gsi});
  acpi.rtc_gsi = address_map::kRtcGsi;
  if (!plan.fw_cfg.empty()) acpi.fw_cfg_port = static_cast<uint16_t>(address_map::kFwCfg.base);
  acpi.pm_port = static_cast<uint16_t>(address_map::kAcpiPm.base);
  acpi.pm_gsi = address_map::kAcpiPmGsi;
  acpi.s5_type = kAcpiS5Type;
  acpi.reset_value = kAcpiResetValue;
  auto range = [](const Window& w) { return AcpiRange{w.base, w.size}; };
  if (config.transport == Transport::pci) {
    AcpiPciRoot root;
    root.ecam = range(address_map::kPciEcam);
    root.mmio32 = range(address_map::kPciMmio32);
    root.mmio64 = range(plan.pci_mmio64);
    root.io = range(address_map::kPciIo);
    acpi.pci = root;
  } else {
    for (const PlannedDevice& device : plan.devices) {
      if (device.space != PlannedDevice::Space::mmio) continue;
      acpi.virtio_mmio.push_back({{device.base, device.size}, device.gsi.value_or(0)});
    }
  }
  return acpi;
}

}  // namespace minivmm
