#include "devices/net/user/gate.h"

namespace minivmm::user_net {

namespace {

constexpr uint16_t kDns = 53;
constexpr uint16_t kDhcpServer = 67;
constexpr uint16_t kDhcpClient = 68;
constexpr uint16_t kTftp = 69;
constexpr uint16_t kDhcp6Server = 547;
constexpr uint8_t kIcmpEcho = 8;
constexpr uint8_t kIcmp6Echo = 128;
constexpr uint8_t kIcmp6RouterSolicitation = 133;
constexpr uint8_t kIcmp6NeighborSolicitation = 135;
constexpr uint8_t kIcmp6NeighborAdvertisement = 136;

Verdict no(const Packet& packet) {
  return packet.is_tcp() && (packet.tcp_flags & kTcpRst) == 0 ? Verdict::refuse : Verdict::drop;
}

bool is_echo(const Packet& packet) {
  return packet.protocol == IPPROTO_ICMP && *packet.header() == kIcmpEcho;
}

bool is_dhcp(const Packet& packet) {
  return packet.is_udp() && packet.source.port == kDhcpClient && packet.destination.port == kDhcpServer;
}

IpAddress link_local6() {
  IpAddress address;
  address.bytes[0] = 0xfe;
  address.bytes[1] = 0x80;
  return address;
}
constexpr unsigned kLinkLocalBits = 10;

// libslirp's own addresses, which answer an echo request.
bool is_router6(const IpAddress& address) {
  IpAddress local = link_local6();
  local.bytes[15] = 2;
  return address == gateway6() || address == dns6() || address == local;
}

// What no router forwards (RFC 1122, 3.2.1.3; RFC 3927, 2.7; RFC 5771), and what Linux takes for itself.
bool stays_here(uint32_t address) {
  const uint32_t first = address >> 24;
  return first == 0 || first == 127 || first >= 224 || address >> 16 == 0xa9fe;
}

}  // namespace

Verdict Gate::judge(const Packet& packet, Crowd crowd) {
  Verdict verdict = Verdict::drop;
  switch (packet.ether_type) {
    case kEtherArp: return judge_arp(packet);
    case kEtherIpv4: verdict = judge_ipv4(packet); break;
    case kEtherIpv6: verdict = config_.ipv6 ? judge_ipv6(packet) : Verdict::drop; break;
    default: break;
  }
  if (verdict == Verdict::pass && crowd != Crowd::room && !admitted(packet, crowd)) return Verdict::drop;
  return verdict;
}

Verdict Gate::judge_arp(const Packet& packet) const {
  const IpAddress sender = IpAddress::v4(load32(packet.frame.data() + kEthernetHeader + 14));
  if (sender == IpAddress::v4(0)) return Verdict::drop;  // a probe (RFC 5227): nobody here has that address
  return config_.in_network(sender) && sender != config_.gateway() && sender != config_.dns() &&
                 sender != config_.broadcast() && sender.as_v4() != config_.network
             ? Verdict::pass
             : Verdict::drop;
}

bool Gate::may_send_from(const Packet& packet) const {
  const IpAddress& from = packet.source.address;
  return config_.in_network(from) && from != config_.gateway() && from != config_.dns() &&
         from != config_.broadcast() && from.as_v4() != config_.network;
}

Verdict Gate::judge_ipv4(const Packet& packet) {
  const IpAddress& to = packet.destination.address;
  const bool asks_everybody = to.as_v4() == ~uint32_t{0};
  if (is_dhcp(packet) && (asks_everybody || to == config_.gateway()) &&
      (packet.source.address == IpAddress::v4(0) || may_send_from(packet))) {
    return Verdict::pass;
  }
  if (!may_send_from(packet)) return Verdict::drop;
  if (to == config_.gateway()) return to_gateway(packet);
  if (config_.in_network(to)) return to_network(packet);
  if (stays_here(to.as_v4())) return Verdict::drop;
  return to_outside(packet);
}

Verdict Gate::to_gateway(const Packet& packet) {
  if (packet.protocol == IPPROTO_ICMP) return is_echo(packet) ? Verdict::pass : Verdict::drop;
  if (packet.is_tcp()) {  // connections that the host has opened go on
    return config_.host_loopback || !packet.opens() ? Verdict::pass : Verdict::refuse;
  }
  if (packet.destination.port == kTftp || packet.destination.port == kDhcpServer) return Verdict::drop;
  return config_.host_loopback || answers_host(packet) ? Verdict::pass : Verdict::drop;
}

Verdict Gate::to_network(const Packet& packet) const {
  const Endpoint& to = packet.destination;
  if (to.address == config_.dns()) {
    if (is_echo(packet)) return Verdict::pass;
    const bool asks = (packet.is_tcp() || packet.is_udp()) && to.port == kDns;
    return asks && !config_.restricted ? Verdict::pass : no(packet);
  }
  for (const GuestForward& forward : config_.guest_forwards) {
    if (packet.is_tcp() && forward.guest == to) return Verdict::pass;
    if (forward.guest.address == to.address) return no(packet);
  }
  return Verdict::drop;
}

Verdict Gate::to_outside(const Packet& packet) {
  if (!config_.restricted) {
    return packet.protocol != IPPROTO_ICMP || is_echo(packet) ? Verdict::pass : Verdict::drop;
  }
  if (packet.is_tcp()) return packet.opens() ? Verdict::refuse : Verdict::pass;
  return answers_host(packet) ? Verdict::pass : Verdict::drop;
}

bool Gate::may_send_from6(const Packet& packet) const {
  const IpAddress& from = packet.source.address;
  if (from.in_prefix(link_local6(), kLinkLocalBits)) return true;
  return from.in_prefix(prefix6(), kPrefix6) && from != prefix6() && from != gateway6() && from != dns6();
}

Verdict Gate::judge_ipv6(const Packet& packet) {
  const Endpoint& to = packet.destination;
  const bool multicast = to.address.bytes[0] == 0xff;
  if (packet.protocol == IPPROTO_ICMPV6) {
    switch (*packet.header()) {
      case kIcmp6Echo:
        return may_send_from6(packet) && is_router6(to.address) ? Verdict::pass : Verdict::drop;
      case kIcmp6RouterSolicitation:
      case kIcmp6NeighborSolicitation:
      case kIcmp6NeighborAdvertisement:
        // A sender without an address yet: RFC 4861, 4.1 and RFC 4862, 5.4.2. Nobody here has its address.
        return may_send_from6(packet) ? Verdict::pass : Verdict::drop;
      default: return Verdict::drop;
    }
  }
  if (!may_send_from6(packet)) return Verdict::drop;
  if (multicast) {
    return packet.is_udp() && to.port == kDhcp6Server ? Verdict::pass : Verdict::drop;
  }
  if (to.address.in_prefix(prefix6(), kPrefix6)) {
    if (to.address == dns6() && to.port == kDns) return config_.restricted ? no(packet) : Verdict::pass;
    if (to.address == gateway6()) return to_gateway(packet);
    return Verdict::drop;
  }
  // ::, ::1, and IPv4 addresses in IPv6's clothes, which Linux would connect to.
  if (to.address.in_prefix(IpAddress{}, 80) || to.address.in_prefix(link_local6(), kLinkLocalBits)) {
    return Verdict::drop;
  }
  return to_outside(packet);
}

bool Gate::answers_host(const Packet& packet) {
  if (!packet.is_udp()) return false;
  const Flow* const flow = flows_.find(IPPROTO_UDP, packet.source, packet.destination);
  return flow != nullptr && flow->from_host;
}

bool Gate::admitted(const Packet& packet, Crowd crowd) {
  if (packet.is_tcp()) return !packet.opens();
  if (packet.is_udp() && is_dhcp(packet)) return true;
  if (packet.is_udp()) {
    return crowd == Crowd::full && flows_.find(IPPROTO_UDP, packet.source, packet.destination) != nullptr;
  }
  return packet.protocol == IPPROTO_ICMPV6 || packet.destination.address == config_.gateway();
}

}  // namespace minivmm::user_net
