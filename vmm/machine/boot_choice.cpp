#include "vmm/machine/boot_choice.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "boot/command_line.h"
#include "boot/host_file.h"
#include "boot/root_device.h"
#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

std::string disk_name(const MachineConfig& config) {
  const auto disk = std::ranges::find(config.virtio, "blk", &VirtioConfig::type);
  return disk == config.virtio.end() ? std::string() : std::string(spec_head(disk->spec));
}

// The kernel file's first bytes; fewer of a smaller one.
std::vector<std::byte> head_of(const std::string& kernel) {
  const HostFile file = open_host_file(kernel, "kernel");
  std::vector<std::byte> head(std::min<uint64_t>(kFlatcarKernelHead, file.size));
  const ssize_t got = ::pread(file.fd.get(), head.data(), head.size(), 0);
  if (got < 0) throw_errno(fmt::format("read the kernel '{}'", kernel));
  head.resize(static_cast<size_t>(got));
  return head;
}

void add(std::string& line, const std::string& words) {
  if (!words.empty()) line += (line.empty() ? "" : " ") + words;
}

}  // namespace

bool asks_disk(const MachineConfig& config) {
  return config.kernel.empty() || !config.cmdline;
}

BootChoice choose_boot(const MachineConfig& config, const ByteSource* disk) {
  BootChoice choice;
  if (!asks_disk(config) || disk == nullptr) {
    choice.cmdline = config.cmdline ? *config.cmdline : default_command_line({}, kernel_console(config));
    add(choice.cmdline, config.append);
    return choice;
  }
  const bool given = !config.kernel.empty();
  std::vector<std::byte> head;
  if (given) head = head_of(config.kernel);
  auto boot = inspect_flatcar(*disk, given ? std::optional(std::span<const std::byte>(head)) : std::nullopt);
  if (!boot && !given) {
    throw HostError(ENOEXEC, fmt::format("disk '{}' has no kernel that minivmm can start: {}; give --kernel",
                                         disk_name(config), boot.error().reason));
  }
  if (!boot && boot.error().is_flatcar) {
    throw HostError(EINVAL, fmt::format("cannot make up a command line for the Flatcar disk '{}': {}; give "
                                        "--cmdline",
                                        disk_name(config), boot.error().reason));
  }
  if (boot) {
    choice.cmdline = config.cmdline ? *config.cmdline : boot->cmdline;
    choice.flatcar = std::move(*boot);
  } else {
    choice.cmdline = default_command_line(find_root_device(*disk, "/dev/vda"), kernel_console(config));
  }
  add(choice.cmdline, config.append);
  return choice;
}

DiskBoot boot_from_disk(const MachineConfig& config, DiskBytes& disk, Log& log) {
  BootChoice choice = choose_boot(config, &disk);
  DiskBoot boot{.cmdline = std::move(choice.cmdline), .kernel_name = config.kernel, .kernel = {}};
  if (!choice.flatcar) return boot;
  const FlatcarBoot& flatcar = *choice.flatcar;
  for (const std::string& warning : flatcar.warnings) {
    log.write(LogLevel::warn, fmt::format("{}: {}", disk_name(config), warning));
  }
  if (!flatcar.kernel.empty()) {
    boot.kernel_name = fmt::format("{} on {}", flatcar.kernel, disk_name(config));
    auto kernel = read_flatcar_kernel(disk, flatcar);
    if (!kernel) {
      throw HostError(EIO,
                      fmt::format("cannot read the kernel {}: {}", boot.kernel_name, kernel.error().what));
    }
    boot.kernel = std::move(*kernel);
  }
  if (flatcar.tries != 0 && !disk.read_only()) {
    if (const auto taken = take_flatcar_try(disk, disk, flatcar); !taken) {
      log.write(
          LogLevel::warn,
          fmt::format("{}: cannot take a try from USR-{:c}: {}; an update that does not come up will not "
                      "be given up",
                      disk_name(config), flatcar.slot - 'a' + 'A', taken.error().what));
    }
  }
  return boot;
}

}  // namespace minivmm
