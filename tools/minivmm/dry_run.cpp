#include "dry_run.h"

#include <fmt/format.h>

#include "devices/block/disk_set.h"
#include "devices/block/disk_spec.h"
#include "devices/net/net_spec.h"
#include "json.h"
#include "vmm/core/spec_string.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/machine/plan.h"

namespace minivmm {

namespace {

const char* space_name(PlannedDevice::Space space) {
  switch (space) {
    case PlannedDevice::Space::port: return "port";
    case PlannedDevice::Space::mmio: return "mmio";
    case PlannedDevice::Space::pci: return "pci";
  }
  return "";
}

const char* e820_name(E820Type type) {
  switch (type) {
    case E820Type::ram: return "ram";
    case E820Type::reserved: return "reserved";
    case E820Type::acpi: return "acpi";
    case E820Type::nvs: return "nvs";
  }
  return "";
}

std::string hex(uint64_t v) {
  return fmt::format("{:#x}", v);
}

// Of one on the disk, its path on the EFI partition.
std::string kernel_of(const MachineConfig& config, const MachinePlan& plan) {
  return config.kernel.empty() && plan.flatcar ? plan.flatcar->kernel : config.kernel;
}

void print_flatcar(const FlatcarBoot& boot) {
  fmt::print("flatcar  USR-{:c}, {}, {}\n", boot.slot - 'a' + 'A',
             boot.first_boot ? "first boot" : "not the first boot",
             boot.tries == 0 ? "proved" : fmt::format("{} tries left", boot.tries));
  for (const std::string& warning : boot.warnings) fmt::print("warning  {}\n", warning);
}

// What is found of each disk, in the order of the plan.
struct FoundDisk {
  std::string device;
  DiskSpec spec;
  const OpenedDisk& disk;
};

std::vector<FoundDisk> find_disks(const MachinePlan& plan, DiskSet& disks) {
  std::vector<FoundDisk> found;
  for (const PlannedVirtio& v : plan.virtio) {
    if (v.config.type != "blk") continue;
    found.push_back({fmt::format("virtio-blk.{}", v.index), parse_disk_spec(v.config.spec),
                     disks.open(v.index, v.config.spec)});
  }
  return found;
}

// An overlay that a run would make, and this does not.
std::string overlay_to_come(const FoundDisk& found) {
  if (found.spec.temporary_overlay) return "temp";
  return found.disk.chain.front().path == found.spec.overlay ? "" : found.spec.overlay;
}

json::array disks_as_json(const std::vector<FoundDisk>& disks) {
  json::array out;
  for (const FoundDisk& found : disks) {
    json::array chain;
    for (const DiskLayer& layer : found.disk.chain) {
      json::object file{{"path", layer.path},
                        {"format", layer.format},
                        {"guessed", layer.format_guessed},
                        {"bytes", layer.capacity}};
      if (!layer.data_file.empty()) file["data_file"] = layer.data_file;
      chain.push_back(std::move(file));
    }
    json::object disk{{"device", found.device},
                      {"bytes", found.disk.backend->capacity()},
                      {"read_only", found.spec.read_only},
                      {"chain", std::move(chain)}};
    if (const std::string overlay = overlay_to_come(found); !overlay.empty()) disk["overlay"] = overlay;
    out.push_back(std::move(disk));
  }
  return out;
}

void print_disks(const std::vector<FoundDisk>& disks) {
  for (const FoundDisk& found : disks) {
    std::string files;
    if (const std::string overlay = overlay_to_come(found); !overlay.empty()) {
      files = fmt::format("overlay {} on ", overlay);
    }
    for (const DiskLayer& layer : found.disk.chain) {
      files += fmt::format("{}{} ({})", &layer == &found.disk.chain.front() ? "" : " on ", layer.path,
                           layer.format_guessed ? "guessed " + layer.format : layer.format);
    }
    fmt::print("disk     {:<15} {}{}, {}\n", found.device, format_size(found.disk.backend->capacity()),
               found.spec.read_only ? ", read-only" : "", files);
  }
}

struct FoundCard {
  std::string device;
  std::string backend;
  MacAddress mac;
};

std::vector<FoundCard> find_cards(const MachineConfig& config, const MachinePlan& plan) {
  std::vector<FoundCard> found;
  for (const PlannedVirtio& v : plan.virtio) {
    if (v.config.type != "net") continue;
    const NetSpec spec = parse_net_spec(v.config.spec);
    found.push_back({fmt::format("virtio-net.{}", v.index), spec.backend,
                     spec.mac.value_or(derive_mac(machine_identity(config), v.index))});
  }
  return found;
}

json::array cards_as_json(const std::vector<FoundCard>& cards) {
  json::array out;
  for (const FoundCard& card : cards) {
    out.push_back(json::object{{"device", card.device}, {"backend", card.backend}, {"mac", card.mac.text()}});
  }
  return out;
}

void print_as_json(const MachineConfig& config, const MachinePlan& plan,
                   const std::vector<FoundDisk>& disks) {
  json::array memory;
  for (const E820Entry& e : plan.e820) {
    memory.push_back(json::object{{"base", hex(e.base)}, {"size", hex(e.size)}, {"type", e820_name(e.type)}});
  }
  json::array devices;
  for (const PlannedDevice& d : plan.devices) {
    json::object device{{"name", d.name}, {"bus", space_name(d.space)}};
    if (d.space == PlannedDevice::Space::pci) {
      device["address"] = fmt::format("0000:00:{:02x}.0", d.base);
    } else {
      device["base"] = hex(d.base);
      device["size"] = hex(d.size);
    }
    if (d.gsi) device["irq"] = *d.gsi;
    if (d.space == PlannedDevice::Space::pci) device["irq"] = "msi-x";
    if (!d.spec.empty()) device["spec"] = d.spec;
    devices.push_back(std::move(device));
  }
  json::array files;
  for (const FwCfgConfig& f : plan.fw_cfg) {
    const bool text = f.file.empty();
    files.push_back(json::object{{"name", f.name}, {text ? "string" : "file", text ? f.text : f.file}});
  }
  json::value flatcar;
  if (plan.flatcar) {
    json::array warnings;
    for (const std::string& warning : plan.flatcar->warnings) warnings.emplace_back(warning);
    flatcar = json::object{{"slot", std::string(1, plan.flatcar->slot)},
                           {"first_boot", plan.flatcar->first_boot},
                           {"tries", plan.flatcar->tries},
                           {"warnings", std::move(warnings)}};
  }
  print_json(json::object{{"name", config.name},
                          {"uuid", uuid_text(plan.smbios.uuid)},
                          {"kernel", kernel_of(config, plan)},
                          {"flatcar", std::move(flatcar)},
                          {"initrd", config.initrd},
                          {"cmdline", plan.cmdline},
                          {"cpus", config.cpus},
                          {"cpu", config.cpu.text()},
                          {"memory_bytes", config.memory},
                          {"memory_shared", plan.shared_memory},
                          {"memory_map", std::move(memory)},
                          {"devices", std::move(devices)},
                          {"disks", disks_as_json(disks)},
                          {"nets", cards_as_json(find_cards(config, plan))},
                          {"fw_cfg", std::move(files)}});
}

void print_as_text(const MachineConfig& config, const MachinePlan& plan) {
  if (!config.name.empty()) fmt::print("name     {}\n", config.name);
  fmt::print("uuid     {}\n", uuid_text(plan.smbios.uuid));
  fmt::print("kernel   {}\n", kernel_of(config, plan));
  if (!config.initrd.empty()) fmt::print("initrd   {}\n", config.initrd);
  fmt::print("cmdline  {}\n", plan.cmdline);
  if (plan.flatcar) print_flatcar(*plan.flatcar);
  fmt::print("cpus     {} ({})\n", config.cpus, config.cpu.text());
  fmt::print("memory   {}{}\n", format_size(config.memory), plan.shared_memory ? ", shared" : "");
  for (const E820Entry& e : plan.e820) {
    fmt::print("         {:#014x}-{:#014x} {}\n", e.base, e.base + e.size - 1, e820_name(e.type));
  }
  for (const PlannedDevice& d : plan.devices) {
    const std::string where = d.space == PlannedDevice::Space::pci
                                  ? fmt::format("pci 00:{:02x}.0", d.base)
                                  : fmt::format("{} {:#x}", space_name(d.space), d.base);
    const std::string irq = d.gsi                                  ? fmt::format("irq {}", *d.gsi)
                            : d.space == PlannedDevice::Space::pci ? "msi-x"
                                                                   : "";
    fmt::print("device   {:<15} {:<16} {:<7}{}\n", d.name, where, irq, d.spec);
  }
  for (const FwCfgConfig& f : plan.fw_cfg) {
    fmt::print("fw_cfg   {:<32} {}\n", f.name,
               f.file.empty() ? "string of " + format_size(f.text.size()) : "file " + f.file);
  }
}

}  // namespace

int dry_run(const MachineConfig& config, bool as_json) {
  Log log(LogLevel::warn, [](LogLevel, std::string_view line) { fmt::print(stderr, "minivmm: {}\n", line); });
  DiskSet disks(DiskSet::Purpose::inspect, log);
  const MachinePlan plan = plan_machine(config, host_physical_address_bits(), disks);
  const std::vector<FoundDisk> found = find_disks(plan, disks);
  if (as_json) {
    print_as_json(config, plan, found);
  } else {
    print_as_text(config, plan);
    print_disks(found);
    for (const FoundCard& card : find_cards(config, plan)) {
      fmt::print("net      {:<15} {}, {}\n", card.device, card.mac.text(), card.backend);
    }
  }
  return 0;
}

}  // namespace minivmm
