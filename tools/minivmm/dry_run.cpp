#include "dry_run.h"

#include <fmt/format.h>

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

void print_as_json(const MachineConfig& config, const MachinePlan& plan) {
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
  print_json(json::object{{"kernel", kernel_of(config, plan)},
                          {"flatcar", std::move(flatcar)},
                          {"initrd", config.initrd},
                          {"cmdline", plan.cmdline},
                          {"cpus", config.cpus},
                          {"cpu", config.cpu.text()},
                          {"memory_bytes", config.memory},
                          {"memory_map", std::move(memory)},
                          {"devices", std::move(devices)},
                          {"fw_cfg", std::move(files)}});
}

void print_as_text(const MachineConfig& config, const MachinePlan& plan) {
  fmt::print("kernel   {}\n", kernel_of(config, plan));
  if (!config.initrd.empty()) fmt::print("initrd   {}\n", config.initrd);
  fmt::print("cmdline  {}\n", plan.cmdline);
  if (plan.flatcar) print_flatcar(*plan.flatcar);
  fmt::print("cpus     {} ({})\n", config.cpus, config.cpu.text());
  fmt::print("memory   {}\n", format_size(config.memory));
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
  const MachinePlan plan = plan_machine(config, host_physical_address_bits());
  if (as_json) {
    print_as_json(config, plan);
  } else {
    print_as_text(config, plan);
  }
  return 0;
}

}  // namespace minivmm
