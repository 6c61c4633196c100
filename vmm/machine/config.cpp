#include "vmm/machine/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"
#include "vmm/machine/address_map.h"
#include "vmm/machine/fw_cfg_config.h"

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

void check_config(const MachineConfig& config) {
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
  fw_cfg_entries(config);
}

}  // namespace minivmm
