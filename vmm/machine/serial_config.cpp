#include "vmm/machine/serial_config.h"

#include <fmt/format.h>
#include <unistd.h>

#include "vmm/core/error.h"

namespace minivmm {

std::unique_ptr<SerialBackend> make_serial(const std::string& spec, EventLoop& loop, Log& log,
                                           const MachineHooks& hooks) {
  if (hooks.serial) return hooks.serial(loop, log);
  const size_t colon = spec.find(':');
  const std::string kind = spec.substr(0, colon);
  const std::string path = colon == std::string::npos ? "" : spec.substr(colon + 1);
  if (path.empty()) {
    if (kind == "stdio") return make_fd_serial(loop, log, STDIN_FILENO, STDOUT_FILENO);
    if (kind == "null") return make_null_serial();
    if (kind == "pty") {
      std::string opened;
      auto backend = make_pty_serial(loop, log, opened);
      if (hooks.notice) hooks.notice("the serial console is on " + opened);
      return backend;
    }
  } else {
    if (kind == "file") return make_file_serial(loop, log, path);
    if (kind == "socket") return make_socket_serial(loop, log, path);
  }
  throw ConfigError(fmt::format("--serial {}: choose stdio, null, pty, file:PATH or socket:PATH", spec));
}

}  // namespace minivmm
