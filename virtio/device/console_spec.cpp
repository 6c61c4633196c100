#include "virtio/device/console_spec.h"

#include <fmt/format.h>

#include <algorithm>

#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

constexpr size_t kMaxName = 64;  // bytes

// What Linux can make a device node's name of.
bool can_be_named(std::string_view name) {
  return name.size() <= kMaxName && name != "." && name != ".." &&
         std::ranges::all_of(name, [](char c) { return c > ' ' && c < 0x7f && c != '/'; });
}

ConsolePortSpec parse(const std::string& text) {
  const SpecString spec("--console", text, {"name", "socket", "file"});
  ConsolePortSpec port{.where = spec.head(), .name = spec.get("name").value_or("")};
  unsigned places = port.where.empty() ? 0 : 1;
  for (const char* kind : {"socket", "file"}) {
    if (const auto path = spec.get(kind)) {
      port.where = fmt::format("{}:{}", kind, *path);
      ++places;
    }
  }
  if (places != 1) {
    throw ConfigError(
        fmt::format("--console {}: say once where it is: stdio, null, pty, file:PATH or socket:PATH", text));
  }
  if (spec.get("name") && (port.name.empty() || !can_be_named(port.name))) {
    throw ConfigError(
        fmt::format("--console {}: a port's name has 1 to {} printable characters, no blank and no slash",
                    text, kMaxName));
  }
  return port;
}

}  // namespace

std::vector<ConsolePortSpec> parse_console_specs(std::string_view text) {
  std::vector<ConsolePortSpec> ports;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    ports.push_back(parse(std::string(text.substr(at, end - at))));
    at = end + 1;
  }
  return ports;
}

}  // namespace minivmm
