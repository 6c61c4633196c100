#include "vmm/machine/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "devices/block/disk_spec.h"
#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"
#include "vmm/machine/address_map.h"
#include "vmm/machine/fw_cfg_config.h"
#include "vmm/machine/identity.h"
#include "vmm/machine/serial_config.h"

namespace minivmm {

namespace {
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kLeastMemory = 32 * kMiB;
}  // namespace

void MachineConfig::set_memory(std::string_view text) {
  const SpecString spec("--memory", text, {"hugepages", "shared", "prefault"});
  const auto size = parse_size(spec.head(), kMiB);
  if (!size) {
    throw ConfigError(fmt::format("--memory {}: '{}' is not a size; write 512M or 2G", text, spec.head()));
  }
  memory = *size;
  const std::string pages = spec.get_choice("hugepages", {"off", "on", "transparent", "2M", "1G"}, "off");
  using HugePages = GuestMemory::HugePages;
  memory_options.hugepages = pages == "2M"    ? HugePages::hugetlb_2m
                             : pages == "1G"  ? HugePages::hugetlb_1g
                             : pages == "off" ? HugePages::off
                                              : HugePages::transparent;
  memory_options.shared = spec.get_switch("shared", false);
  memory_options.prefault = spec.get_switch("prefault", false);
}

namespace {

// Path, device or URL.
std::string main_file(const MachineConfig& config) {
  const auto disk = std::ranges::find(config.virtio, "blk", &VirtioConfig::type);
  return disk == config.virtio.end() ? config.kernel : spec_head(disk->spec);
}

bool is_name_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
         c == '-';
}

void check_name(const std::string& name) {
  if (name.empty()) return;
  if (name.size() > kMaxMachineName || !std::ranges::all_of(name, is_name_letter) || name.front() == '.' ||
      name.front() == '-') {
    throw ConfigError(
        fmt::format("--name {}: give up to {} letters, digits, dots, dashes and underscores, "
                    "with a letter, a digit or an underscore first",
                    name, kMaxMachineName));
  }
}

}  // namespace

std::string machine_name(const MachineConfig& config) {
  if (!config.name.empty()) return config.name;
  std::string name = std::filesystem::path(main_file(config)).stem().string();
  std::ranges::replace_if(name, [](char c) { return !is_name_letter(c); }, '-');
  name.erase(0, name.find_first_not_of(".-"));
  name.resize(std::min(name.size(), kMaxMachineName));
  return name.empty() ? "machine" : name;
}

std::string machine_file(const MachineConfig& config) {
  const auto disk = std::ranges::find(config.virtio, "blk", &VirtioConfig::type);
  if (disk != config.virtio.end()) {
    // It may be there only from the first start on.
    const std::string overlay = parse_disk_spec(disk->spec).overlay;
    if (!overlay.empty()) return std::filesystem::weakly_canonical(std::filesystem::absolute(overlay));
  }
  const std::string file = main_file(config);
  std::error_code failure;  // of a path that does not exist, or of a URL: taken as it is written
  const auto path = std::filesystem::canonical(file, failure);
  return failure ? file : path.string();
}

std::string machine_identity(const MachineConfig& config) {
  if (!config.name.empty()) return config.name;
  const std::string file = machine_file(config);
  // No canonical path has two slashes in a row.
  return config.instance == 1 ? file : fmt::format("{}//{}", file, config.instance);
}

void check_config(const MachineConfig& config) {
  check_name(config.name);
  if (config.kernel.empty() &&
      std::ranges::find(config.virtio, "blk", &VirtioConfig::type) == config.virtio.end()) {
    throw ConfigError(
        "no kernel is given; add --kernel FILE (a bzImage or an ELF vmlinux), or a --disk that has one on "
        "its "
        "EFI partition");
  }
  if (config.cpus == 0 || config.cpus > address_map::kMostCpus) {
    throw ConfigError(
        fmt::format("--cpus {}: a machine has 1 to {} CPUs", config.cpus, address_map::kMostCpus));
  }
  if (config.memory < kLeastMemory) {
    throw ConfigError(
        fmt::format("--memory: {} is too little; give the guest at least 32M", format_size(config.memory)));
  }
  if (config.memory % kPageSize != 0) {
    throw ConfigError(
        fmt::format("--memory: {} is not a whole number of 4 KiB pages", format_size(config.memory)));
  }
  const uint64_t huge = config.memory_options.hugepages == GuestMemory::HugePages::hugetlb_2m   ? 2 * kMiB
                        : config.memory_options.hugepages == GuestMemory::HugePages::hugetlb_1g ? 1024 * kMiB
                                                                                                : kPageSize;
  if (config.memory % huge != 0) {
    throw ConfigError(fmt::format("--memory: {} is not a whole number of huge pages of {}",
                                  format_size(config.memory), format_size(huge)));
  }
  check_stdio(config);
  fw_cfg_entries(config);
  check_identity(config);
}

}  // namespace minivmm
