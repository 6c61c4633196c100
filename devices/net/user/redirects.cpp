#include "devices/net/user/redirects.h"

#include <algorithm>

namespace minivmm::user_net {

namespace {
constexpr uint16_t kDns = 53;
}

Redirects::Redirects(const UserNetConfig& config, FlowTable& flows) : flows_(flows) {
  for (const GuestForward& forward : config.guest_forwards) {
    if (forward.unix_path.empty()) rules_.push_back({forward.guest, forward.host, false});
  }
  if (config.name_server) rules_.push_back({{config.dns(), kDns}, *config.name_server, true});
}

const Redirects::Rule* Redirects::rule_for(const Packet& packet) const {
  const auto found = std::ranges::find_if(rules_, [&](const Rule& rule) {
    return rule.guest == packet.destination && (rule.udp_too || packet.is_tcp());
  });
  return found == rules_.end() ? nullptr : &*found;
}

void Redirects::forget(const Packet& packet) {
  if (std::ranges::find(rules_, packet.destination, &Rule::host) == rules_.end()) return;
  if (Flow* const flow = flows_.find(packet.protocol, packet.source, packet.destination)) flow->redirect = 0;
}

void Redirects::inward(Packet& packet) {
  if (rules_.empty() || !(packet.is_tcp() || packet.is_udp())) return;
  if (std::ranges::find(rules_, packet.source, &Rule::host) == rules_.end()) return;
  const Flow* const flow = flows_.find(packet.protocol, packet.destination, packet.source);
  if (flow != nullptr && flow->redirect != 0) set_source(packet, rules_[flow->redirect - size_t{1}].guest);
}

}  // namespace minivmm::user_net
