#include "vmm/machine/serial_config.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "virtio/device/console_spec.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

ptrdiff_t consoles_on_stdio(const MachineConfig& config) {
  ptrdiff_t count = 0;
  for (const VirtioConfig& device : config.virtio) {
    if (device.type != "console" || device.spec == "off") continue;
    count += std::ranges::count(parse_console_specs(device.spec), "stdio", &ConsolePortSpec::where);
  }
  return count;
}

}  // namespace

bool console_on_stdio(const MachineConfig& config) {
  return consoles_on_stdio(config) != 0;
}

std::string kernel_console(const MachineConfig& config) {
  unsigned consoles = 0;  // Linux numbers them as it finds them
  for (const VirtioConfig& device : config.virtio) {
    if (device.type != "console" || device.spec == "off") continue;
    for (const ConsolePortSpec& port : parse_console_specs(device.spec)) {
      if (!port.name.empty()) continue;
      if (port.where == "stdio") return fmt::format("hvc{}", consoles);
      ++consoles;
    }
  }
  return "ttyS0";
}

std::string serial_place(const MachineConfig& config) {
  if (!config.serial.empty()) return config.serial;
  return console_on_stdio(config) ? "null" : "stdio";
}

void check_stdio(const MachineConfig& config) {
  if (consoles_on_stdio(config) + (config.serial == "stdio" ? 1 : 0) > 1) {
    throw ConfigError(
        "only one of --serial and --console can be on stdio; put the others elsewhere (null, pty, file:PATH, "
        "socket:PATH)");
  }
}

std::unique_ptr<SerialBackend> make_serial(const std::string& option, const std::string& spec,
                                           EventLoop& loop, Log& log, const MachineHooks& hooks) {
  const size_t colon = spec.find(':');
  const std::string kind = spec.substr(0, colon);
  const std::string path = colon == std::string::npos ? "" : spec.substr(colon + 1);
  if (path.empty()) {
    if (kind == "stdio") {
      const auto slow = option == "--serial" ? SlowReader::holds_guest : SlowReader::loses_output;
      if (hooks.terminal) return hooks.terminal(loop, log, slow);
      return make_fd_serial(loop, log, STDIN_FILENO, STDOUT_FILENO, {}, slow);
    }
    if (kind == "null") return make_null_serial();
    if (kind == "pty") {
      std::string opened;
      auto backend = make_pty_serial(loop, log, opened);
      if (hooks.notice) hooks.notice(fmt::format("{} is on {}", option, opened));
      return backend;
    }
  } else {
    if (kind == "file") return make_file_serial(loop, log, path);
    if (kind == "socket") return make_socket_serial(loop, log, path);
  }
  throw ConfigError(fmt::format("{} {}: choose stdio, null, pty, file:PATH or socket:PATH", option, spec));
}

}  // namespace minivmm
