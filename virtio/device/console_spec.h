// The value of --console.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace minivmm {

struct ConsolePortSpec {
  std::string where;  // as --serial's: "stdio", "null", "pty", "file:PATH", "socket:PATH"
  std::string name;   // empty: a console (hvc0); else a port of that name (/dev/virtio-ports/NAME)
};

// One spec a line. Throws ConfigError.
std::vector<ConsolePortSpec> parse_console_specs(std::string_view text);

}  // namespace minivmm
