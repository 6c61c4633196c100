#include "devices/net/internal/open_internal.h"

#include <fmt/format.h>

#include "devices/net/internal/switch_port.h"

namespace minivmm {

std::unique_ptr<NetBackend> create_internal_net(const NetSpec& spec, const NetContext&) {
  const std::string name = spec.settings.get("name").value_or("intnet");  // VirtualBox's default
  if (!is_segment_name(name)) {
    throw ConfigError(
        fmt::format("--net internal name={}: give 1 to 32 letters, digits, '-', '_' and '.'", name));
  }
  if (spec.queues.value_or(1) != 1) throw ConfigError("--net internal queues: it has one");
  return std::make_unique<SwitchPort>(segments_folder(), name);
}

}  // namespace minivmm
