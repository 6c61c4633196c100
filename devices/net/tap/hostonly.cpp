#include "devices/net/tap/hostonly.h"

#include <fmt/format.h>
#include <linux/if.h>

#include <algorithm>
#include <cerrno>

#include "devices/net/netns_lock.h"
#include "devices/net/tap/dhcp_thread.h"
#include "devices/net/tap/tap_backend.h"
#include "devices/net/tap/tap_set_up.h"

namespace minivmm {

namespace {

// In the bridge's alias: only such a one is removed.
constexpr std::string_view kAlias = "minivmm";

std::string lock_name(const std::string& bridge) {
  return "hostonly/" + bridge;
}

Ipv4Network network_setting(const NetSpec& spec) {
  const std::string text = spec.settings.get("net").value_or(std::string(kHostOnlyNetwork));
  const auto network = parse_ipv4_network(text);
  const uint32_t host = network ? network->address & ~network->mask() : 0;
  if (!network || network->prefix < 8 || network->prefix > 30 || host == 0 || host == ~network->mask()) {
    throw ConfigError(fmt::format("--net hostonly net={}: give the host's address and the network's size: {}",
                                  text, kHostOnlyNetwork));
  }
  return *network;
}

void refuse_overlap(Links& links, const Ipv4Network& network) {
  for (const Links::Address& other : links.ipv4_addresses()) {
    if (!other.network.overlaps(network)) continue;
    const auto owner = links.find(other.link);
    throw HostError(
        EADDRINUSE,
        fmt::format("cannot have {}/{} on a host-only network: {}/{} of {} overlaps with it; "
                    "choose another, such as --net hostonly,net=192.168.57.1/24",
                    format_ipv4(network.address), network.prefix, format_ipv4(other.network.address),
                    other.network.prefix, owner ? owner->name : "another interface"));
  }
}

Link make_bridge(Links& links, const std::string& name, const Ipv4Network& network) {
  refuse_overlap(links, network);
  // An address of its own, which no port changes: locally administered, from the network's.
  MacAddress mac{{0x0a, 0x00, static_cast<uint8_t>(network.address >> 24),
                  static_cast<uint8_t>(network.address >> 16), static_cast<uint8_t>(network.address >> 8),
                  static_cast<uint8_t>(network.address)}};
  const int error = links.add_bridge(name, mac, std::string(kAlias));
  need(error, fmt::format("make the bridge {}", name),
       error == EOPNOTSUPP ? "load the kernel's module by: modprobe bridge" : "");
  const auto bridge = links.find(name);
  if (!bridge) throw_refused(ENODEV, fmt::format("make the bridge {}", name));
  need(links.add_ipv4_address(bridge->index, network),
       fmt::format("give {} the address {}", name, format_ipv4(network.address)));
  return *bridge;
}

// The one that is there, and the network it has.
Ipv4Network network_of(Links& links, const Link& bridge, const NetSpec& spec) {
  if (bridge.kind != "bridge")
    throw_refused(ENODEV, fmt::format("use the bridge {}", bridge.name),
                  "it is no bridge: choose another name");
  const Ipv4Network wanted = network_setting(spec);
  std::optional<Ipv4Network> found;
  for (const Links::Address& address : links.ipv4_addresses()) {
    if (address.link != bridge.index) continue;
    if (address.network.address == wanted.address && address.network.prefix == wanted.prefix) return wanted;
    if (!found) found = address.network;
  }
  if (found && !spec.settings.get("net") && found->prefix >= 8 && found->prefix <= 30) return *found;
  if (found) {
    throw HostError(
        EADDRINUSE,
        fmt::format("the bridge {} is there and has {}/{}: leave out net=, or give another bridge=",
                    bridge.name, format_ipv4(found->address), found->prefix));
  }
  need(links.add_ipv4_address(bridge.index, wanted),
       fmt::format("give {} the address {}", bridge.name, format_ipv4(wanted.address)));
  return wanted;
}

void remove_if_empty(const std::string& name) {
  const UniqueFd lock = take_netns_lock(lock_name(name));
  Links links;
  const auto bridge = links.find(name);
  if (!bridge || bridge->kind != "bridge" || bridge->alias != kAlias) return;
  const auto all = links.all();
  if (std::ranges::none_of(all, [&](const Link& link) { return link.master == bridge->index; }))
    links.remove(bridge->index);
}

}  // namespace

std::unique_ptr<NetBackend> create_hostonly_net(const NetSpec& spec, const NetContext& context) {
  std::string name = interface_setting(spec, "bridge");
  if (name.empty()) name = kHostOnlyBridge;
  Ipv4Network network = network_setting(spec);
  Links links;
  TapBackend::Plan plan{.kind = "hostonly"};
  plan.vhost = open_tap_vhost(spec, spec.queues.value_or(1));

  UniqueFd lock = take_netns_lock(lock_name(name));  // the last machine may be removing it
  auto bridge = links.find(name);
  if (bridge) {
    network = network_of(links, *bridge, spec);
  } else {
    bridge = make_bridge(links, name, network);
  }
  plan.undo.add([name] { remove_if_empty(name); });
  if (!bridge->admin_up()) need(links.set_flags(bridge->index, IFF_UP), fmt::format("bring up {}", name));

  OpenedTap tap = open_tap_device(links, "", spec.queues.value_or(1));
  set_up_tap(links, tap, &*bridge, spec.mtu, guest_mac(spec, context), plan.undo);
  plan.queues = std::move(tap.queues);
  plan.multi_queue = tap.multi_queue;
  plan.link = std::move(tap.link);
  if (spec.settings.get_switch("dhcp", true)) {
    plan.companion = std::make_shared<DhcpThread>(*plan.link, *bridge, network);
  }
  lock.reset();  // what is undone takes it
  return std::make_unique<TapBackend>(std::move(plan));
}

}  // namespace minivmm
