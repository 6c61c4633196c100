// What the user says of a card on user networking: --net user[,KEY=VALUE...] and -p.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "devices/net/user/packet.h"
#include "vmm/core/spec_string.h"

namespace minivmm::user_net {

// A port of the host that leads to one of the guest: [ADDR:]HOST:GUEST[/tcp|/udp]. Without ADDR the host's
// own programs reach it and nobody else; "*" is every IPv4 address of the host. An IPv6 address is in
// brackets, and leads to the guest's IPv6 address.
struct Forward {
  IpAddress address;  // 0.0.0.0 or :: : all
  uint16_t host_port = 0;
  uint16_t guest_port = 0;
  bool udp = false;

  std::string text() const;  // as the user would write it, address and all
};
Forward parse_forward(std::string_view text);  // throws ConfigError

// An address in the guest's network that leads to a service of the host: ADDR:PORT-tcp:HOST:PORT or
// ADDR:PORT-unix:PATH.
struct GuestForward {
  Endpoint guest;  // what the guest connects to
  Endpoint host;   // where that leads, unless `unix_path` is given
  std::string unix_path;
};
GuestForward parse_guest_forward(std::string_view text);  // throws ConfigError

struct UserNetConfig {
  // The guest's IPv4 network. The gateway has its second address, the name server the third, and the guest
  // gets the fifteenth.
  uint32_t network = 0x0a000200;  // host order
  unsigned prefix = 24;           // bits, kMinPrefix to kMaxPrefix
  bool ipv6 = true;               // fec0::/64, in the same order
  bool restricted = false;
  bool host_loopback = false;
  std::string hostname;                 // told by DHCP; empty: none
  std::string domain;                   // the same
  std::optional<Endpoint> name_server;  // instead of the host's own
  uint16_t mtu = 0;                     // bytes; 0: 1500
  std::vector<Forward> forwards;
  std::vector<GuestForward> guest_forwards;
  // Connections and other conversations at once; 0: what suits the process's limit on descriptors.
  unsigned max_sessions = 0;

  IpAddress host_number(uint32_t number) const { return IpAddress::v4(network + number); }
  IpAddress gateway() const { return host_number(2); }
  IpAddress dns() const { return host_number(3); }
  IpAddress guest() const { return host_number(15); }
  IpAddress broadcast() const { return IpAddress::v4(network | ~mask()); }
  uint32_t mask() const { return ~uint32_t{0} << (32 - prefix); }
  bool in_network(const IpAddress& a) const { return a.is_v4() && (a.as_v4() & mask()) == network; }
};

inline constexpr unsigned kMinPrefix = 8;
inline constexpr unsigned kMaxPrefix = 27;  // the guest's address fits
inline constexpr unsigned kPrefix6 = 64;
inline constexpr uint16_t kDefaultMtu = 1500;
IpAddress prefix6();   // fec0::
IpAddress gateway6();  // fec0::2
IpAddress dns6();      // fec0::3

// The keys it takes from a --net spec, a '*' after those that may be repeated.
inline constexpr std::array<std::string_view, 9> kUserNetKeys{
    "forward*", "guestfwd*", "restrict", "host-loopback", "net", "ipv6", "hostname", "domain", "dns"};
UserNetConfig parse_user_net(const SpecString& settings, uint16_t mtu);  // throws ConfigError

}  // namespace minivmm::user_net
