#include "devices/net/open_net.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "devices/net/internal/open_internal.h"
#include "devices/net/net_mtu.h"
#include "devices/net/net_null.h"
#include "devices/net/net_rate.h"
#include "devices/net/passt/open_passt.h"
#include "devices/net/pcap.h"
#include "devices/net/tap/hostonly.h"
#include "devices/net/tap/macvtap.h"
#include "devices/net/tap/open_tap.h"
#include "devices/net/user/open_user.h"
#include "devices/net/vhost_user_net.h"

namespace minivmm {

std::span<const NetBackendType> net_backend_types() {
  static constexpr std::array kTypes{
      kNullNetType,    kInternalNetType, kTapNetType,  kHostOnlyNetType,
      kMacvtapNetType, kPasstNetType,    kUserNetType, kVhostUserNetType,
  };
  return kTypes;
}

const NetBackendType* find_net_backend(std::string_view name) {
  const auto types = net_backend_types();
  const auto found = std::ranges::find(types, name, &NetBackendType::name);
  return found == types.end() ? nullptr : &*found;
}

std::string net_help() {
  std::string text = fmt::format("a network card, repeatable (default {}): none", kDefaultNetSpec);
  for (const NetBackendType& type : net_backend_types())
    text += fmt::format("; {}: {}", type.name, type.help);
  return text +
         ". For each: mac=ADDRESS, mtu=N, rate=BITS (a second, each way; 100M), rate-burst=SIZE, queues=N, "
         "speed=BITS (what the guest is told), pcap=FILE (a capture for Wireshark)";
}

bool net_shares_memory(std::string_view spec) {
  const NetBackendType* type = find_net_backend(parse_net_spec(spec).backend);
  return type != nullptr && type->shares_memory;
}

std::string default_net_missing() {
  static_assert(kDefaultNetSpec == kUserNetType.name);
  return user_net_missing();
}

std::unique_ptr<NetBackend> open_net(const NetSpec& spec, const NetContext& context) {
  if (spec.backend == kNoNet) return nullptr;
  const NetBackendType* type = find_net_backend(spec.backend);
  MV_CHECK(type != nullptr);  // parse_net_spec() has looked
  auto net = type->create(spec, context);
  if (spec.queues && *spec.queues != net->traits().queue_pairs) {
    throw ConfigError(fmt::format("--net {},queues={}: this network has {}", spec.backend, *spec.queues,
                                  net->traits().queue_pairs));
  }
  if (net->vhost() != nullptr && (spec.rate.per_second != 0 || !spec.pcap.empty())) {
    throw ConfigError(fmt::format("--net {}: {} sees the frames that pass minivmm, and here they do not",
                                  spec.backend, spec.pcap.empty() ? "rate" : "pcap"));
  }
  if (spec.mtu != 0) net = limit_net_mtu(std::move(net), spec.mtu);
  if (spec.rate.per_second != 0) net = limit_net_rate(std::move(net), spec.rate);
  // Outermost: it shows what the guest sends and what it gets.
  if (!spec.pcap.empty()) net = capture_net(std::move(net), spec.pcap, context.log);
  return net;
}

}  // namespace minivmm
