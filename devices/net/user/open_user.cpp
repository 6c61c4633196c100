#include "devices/net/user/open_user.h"

#include <fmt/format.h>

#include "devices/net/user/library.h"
#include "devices/net/user/user_net.h"
#include "vmm/core/error.h"

namespace minivmm {

std::unique_ptr<NetBackend> create_user_net(const NetSpec& spec, const NetContext&) {
  if (spec.queues.value_or(1) != 1)
    throw ConfigError("--net user,queues: it has one pair of queues; leave it out");
  return make_user_net(user_net::parse_user_net(spec.settings, spec.mtu));
}

std::string user_net_missing() {
  const auto library = user_net::find_library();
  return library ? "" : library.error();
}

std::optional<std::string> with_forward(std::string_view spec, std::string_view forward) {
  const user_net::Forward parsed = user_net::parse_forward(forward);
  if (parse_net_spec(spec).backend != kUserNetType.name) return std::nullopt;
  return fmt::format("{},forward={}", spec, parsed.text());
}

}  // namespace minivmm
