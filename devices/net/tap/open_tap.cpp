#include "devices/net/tap/open_tap.h"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <set>

#include "devices/net/tap/tap_backend.h"
#include "devices/net/tap/tap_device.h"
#include "devices/net/tap/tap_set_up.h"

namespace minivmm {

namespace {

std::vector<UniqueFd> parse_descriptors(std::string_view text) {
  std::set<int> numbers;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(':', at), text.size());
    int fd = -1;
    const auto parsed = std::from_chars(text.data() + at, text.data() + end, fd);
    if (parsed.ec != std::errc{} || parsed.ptr != text.data() + end || fd <= 2 ||
        !numbers.insert(fd).second || numbers.size() > kMaxNetPairs) {
      throw ConfigError(
          fmt::format("--net tap fd={}: give the number of an open descriptor, 3 or higher, or "
                      "several with colons between, one a queue",
                      text));
    }
    at = end + 1;
  }
  std::vector<UniqueFd> fds;
  fds.reserve(numbers.size());
  for (const int fd : numbers) fds.emplace_back(fd);
  return fds;
}

std::unique_ptr<NetBackend> take_descriptors(const NetSpec& spec, const std::string& text) {
  if (spec.settings.get("ifname") || spec.settings.get("bridge") || spec.queues)
    throw ConfigError("--net tap fd: the device is set up already: no ifname, bridge or queues with it");
  TapBackend::Plan plan{.kind = "tap", .queues = parse_descriptors(text)};
  for (const UniqueFd& fd : plan.queues) {
    const TapIdentity identity = identify_tap(fd.get());
    const bool one_queue = plan.queues.size() > 1 && !identity.multi_queue;
    if (!identity.vnet_header || one_queue) {
      throw HostError(EINVAL, fmt::format("--net tap fd={}: it was opened without {}", fd.get(),
                                          one_queue ? "IFF_MULTI_QUEUE" : "IFF_VNET_HDR"));
    }
    need(prepare_tap(fd.get()), fmt::format("set up the tap device of --net tap fd={}", fd.get()));
    plan.multi_queue = identity.multi_queue;
    // By name it could be another one, where the descriptor comes from another network namespace.
    auto link = Links().find(identity.name);
    if (link && link->address == identity.address) plan.link = std::move(link);
  }
  plan.vhost = open_tap_vhost(spec, plan.queues.size());
  return std::make_unique<TapBackend>(std::move(plan));
}

}  // namespace

std::unique_ptr<NetBackend> create_tap_net(const NetSpec& spec, const NetContext& context) {
  if (const auto text = spec.settings.get("fd")) return take_descriptors(spec, *text);
  const std::string name = interface_setting(spec, "ifname");
  const std::string bridge_name = interface_setting(spec, "bridge");
  Links links;
  std::optional<Link> bridge;
  if (!bridge_name.empty()) {
    bridge = links.find(bridge_name);
    if (!bridge || bridge->kind != "bridge") {
      throw_refused(ENODEV, fmt::format("use the bridge {}", bridge_name),
                    bridge ? fmt::format("{} is no bridge", bridge_name)
                           : fmt::format("there is none: ip link add {0} type bridge; ip link set {0} up; or "
                                         "use --net hostonly, which makes its own",
                                         bridge_name));
    }
  }
  TapBackend::Plan plan{.kind = "tap", .return_to_name = !name.empty()};
  plan.vhost = open_tap_vhost(spec, spec.queues.value_or(1));  // first: it changes nothing on the host
  OpenedTap tap = open_tap_device(links, name, spec.queues.value_or(1));
  set_up_tap(links, tap, bridge ? &*bridge : nullptr, spec.mtu, guest_mac(spec, context), plan.undo);
  plan.queues = std::move(tap.queues);
  plan.multi_queue = tap.multi_queue;
  plan.link = std::move(tap.link);
  return std::make_unique<TapBackend>(std::move(plan));
}

}  // namespace minivmm
