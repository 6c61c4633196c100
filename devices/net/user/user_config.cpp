#include "devices/net/user/user_config.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "vmm/core/error.h"

namespace minivmm::user_net {

namespace {

constexpr size_t kMaxHostname = 33;  // RFC 1533's field in libslirp
constexpr size_t kMaxDomain = 200;   // a DHCP reply has room for it
constexpr uint16_t kDnsPort = 53;

std::optional<uint16_t> parse_port(std::string_view text) {
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc{} || end != text.data() + text.size() || port == 0) return std::nullopt;
  return port;
}

std::optional<IpAddress> parse_v4(const std::string& text) {
  in_addr address{};
  if (::inet_pton(AF_INET, text.c_str(), &address) != 1) return std::nullopt;
  return IpAddress::v4(ntohl(address.s_addr));
}

std::optional<IpAddress> parse_v6(const std::string& text) {
  IpAddress address;
  if (::inet_pton(AF_INET6, text.c_str(), address.bytes.data()) != 1 || address.is_v4()) return std::nullopt;
  return address;
}

// "1.2.3.4:80"; the port may be left out where there is a usual one.
std::optional<Endpoint> parse_v4_endpoint(std::string_view text, uint16_t usual_port) {
  const size_t colon = text.find(':');
  const auto address = parse_v4(std::string(text.substr(0, colon)));
  const auto port =
      colon == std::string_view::npos ? std::optional(usual_port) : parse_port(text.substr(colon + 1));
  if (!address || !port || *port == 0) return std::nullopt;
  return Endpoint{*address, *port};
}

void parse_network(UserNetConfig& config, const std::string& text) {
  const size_t slash = text.find('/');
  const auto address = parse_v4(text.substr(0, slash));
  const uint16_t bits = slash == std::string::npos
                            ? uint16_t{0}
                            : parse_port(std::string_view(text).substr(slash + 1)).value_or(0);
  if (!address || bits < kMinPrefix || bits > kMaxPrefix) {
    throw ConfigError(
        fmt::format("--net user,net={}: write an IPv4 network such as 10.0.2.0/24, with {} to {} "
                    "bits",
                    text, kMinPrefix, kMaxPrefix));
  }
  config.prefix = bits;
  config.network = address->as_v4() & config.mask();
  if (config.network != address->as_v4()) {
    throw ConfigError(fmt::format("--net user,net={}: the address has bits past its {} bits of network", text,
                                  config.prefix));
  }
}

// Goes into DHCP replies.
std::string name_of(const SpecString& settings, std::string_view key, size_t most) {
  std::string name = settings.get(key).value_or("");
  const bool good = name.size() <= most && std::ranges::all_of(name, [](char c) {
                      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                             c == '-' || c == '.';
                    });
  if (!good || (settings.get(key) && name.empty())) {
    throw ConfigError(
        fmt::format("--net user,{}={}: write letters, digits, '-' and '.', {} at most", key, name, most));
  }
  return name;
}

void check_guest_forwards(const UserNetConfig& config) {
  const auto& all = config.guest_forwards;
  for (auto forward = all.begin(); forward != all.end(); ++forward) {
    const IpAddress& address = forward->guest.address;
    if (!config.in_network(address) || address == config.gateway() || address == config.dns() ||
        address == config.guest() || address == config.broadcast() || address.as_v4() == config.network) {
      throw ConfigError(
          fmt::format("--net user,guestfwd: choose an address of the guest's network that nothing has, such "
                      "as {}.{}.{}.100",
                      config.network >> 24, config.network >> 16 & 0xff, config.network >> 8 & 0xff));
    }
    if (std::any_of(all.begin(), forward,
                    [&](const GuestForward& other) { return other.guest == forward->guest; })) {
      throw ConfigError(
          fmt::format("--net user,guestfwd: port {} of an address leads to two places", forward->guest.port));
    }
  }
}

}  // namespace

IpAddress prefix6() {
  IpAddress address;
  address.bytes[0] = 0xfe;
  address.bytes[1] = 0xc0;
  return address;
}

IpAddress gateway6() {
  IpAddress address = prefix6();
  address.bytes[15] = 2;
  return address;
}

IpAddress dns6() {
  IpAddress address = prefix6();
  address.bytes[15] = 3;
  return address;
}

std::string Forward::text() const {
  char buffer[INET6_ADDRSTRLEN] = "";
  if (address.is_v4()) {
    ::inet_ntop(AF_INET, address.bytes.data() + 12, buffer, sizeof buffer);
  } else {
    ::inet_ntop(AF_INET6, address.bytes.data(), buffer, sizeof buffer);
  }
  return fmt::format("{}{}{}:{}:{}{}", address.is_v4() ? "" : "[", buffer, address.is_v4() ? "" : "]",
                     host_port, guest_port, udp ? "/udp" : "");
}

Forward parse_forward(std::string_view text) {
  const auto wrong = [&](std::string_view why) {
    return ConfigError(
        fmt::format("cannot forward '{}': {}; write [ADDR:]HOSTPORT:GUESTPORT[/udp], such as "
                    "2222:22, 0.0.0.0:8080:80 or [::1]:5353:53/udp",
                    text, why));
  };
  Forward forward;
  std::string_view rest = text;
  if (const size_t slash = rest.rfind('/'); slash != std::string_view::npos) {
    const std::string_view protocol = rest.substr(slash + 1);
    if (protocol != "udp" && protocol != "tcp") throw wrong("the protocol is tcp or udp");
    forward.udp = protocol == "udp";
    rest = rest.substr(0, slash);
  }
  const size_t last = rest.rfind(':');
  if (last == std::string_view::npos) throw wrong("a port is missing");
  const auto guest_port = parse_port(rest.substr(last + 1));
  rest = rest.substr(0, last);
  const size_t before = rest.rfind(':');
  const bool has_address = before != std::string_view::npos;
  const auto host_port = parse_port(has_address ? rest.substr(before + 1) : rest);
  if (!guest_port || !host_port) throw wrong("a port is a number from 1 to 65535");
  forward.guest_port = *guest_port;
  forward.host_port = *host_port;

  std::string address(has_address ? rest.substr(0, before) : "127.0.0.1");
  std::optional<IpAddress> parsed;
  if (address == "*") {
    parsed = IpAddress::v4(0);
  } else if (address.size() > 2 && address.front() == '[' && address.back() == ']') {
    parsed = parse_v6(address.substr(1, address.size() - 2));
  } else {
    parsed = parse_v4(address);
  }
  if (!parsed) throw wrong("that is no address (IPv6 addresses are in brackets)");
  forward.address = *parsed;
  return forward;
}

GuestForward parse_guest_forward(std::string_view text) {
  const auto wrong = [&](std::string_view why) {
    return ConfigError(
        fmt::format("--net user,guestfwd={}: {}; write ADDR:PORT-tcp:HOSTADDR:PORT or "
                    "ADDR:PORT-unix:PATH, such as 10.0.2.100:80-tcp:127.0.0.1:8080",
                    text, why));
  };
  const size_t dash = text.find('-');
  if (dash == std::string_view::npos) throw wrong("the service of the host is missing");
  GuestForward forward;
  const auto guest = parse_v4_endpoint(text.substr(0, dash), 0);
  if (!guest) throw wrong("what stands before '-' is no IPv4 address and port");
  forward.guest = *guest;
  const std::string_view target = text.substr(dash + 1);
  if (target.starts_with("unix:")) {
    forward.unix_path = target.substr(5);
    if (forward.unix_path.empty()) throw wrong("the socket's path is missing");
  } else if (target.starts_with("tcp:")) {
    const auto host = parse_v4_endpoint(target.substr(4), 0);
    if (!host) throw wrong("what stands behind 'tcp:' is no IPv4 address and port");
    forward.host = *host;
  } else {
    throw wrong("the service is tcp: or unix:");
  }
  return forward;
}

UserNetConfig parse_user_net(const SpecString& settings, uint16_t mtu) {
  UserNetConfig config;
  if (const auto network = settings.get("net")) parse_network(config, *network);
  config.ipv6 = settings.get_switch("ipv6", true);
  config.restricted = settings.get_switch("restrict", false);
  config.host_loopback = settings.get_switch("host-loopback", false);
  if (config.restricted && config.host_loopback) {
    throw ConfigError(
        "--net user: restrict=on and host-loopback=on contradict each other; to let a restricted "
        "guest reach one service of the host, use guestfwd=");
  }
  config.hostname = name_of(settings, "hostname", kMaxHostname);
  config.domain = name_of(settings, "domain", kMaxDomain);
  if (const auto server = settings.get("dns")) {
    config.name_server = parse_v4_endpoint(*server, kDnsPort);
    if (!config.name_server) {
      throw ConfigError(fmt::format(
          "--net user,dns={}: write a name server's IPv4 address, and its port if it is not 53", *server));
    }
    if (config.restricted)
      throw ConfigError("--net user: with restrict=on there is no name server; leave dns= out");
  }
  constexpr uint16_t kLeastMtu = 576;    // RFC 791: every host takes that
  constexpr uint16_t kLeastMtu6 = 1280;  // RFC 8200, 5
  constexpr uint16_t kMostMtu = 65520;
  const uint16_t least = config.ipv6 ? kLeastMtu6 : kLeastMtu;
  if (mtu != 0 && (mtu < least || mtu > kMostMtu)) {
    throw ConfigError(fmt::format("--net user,mtu={}: it is from {} to {} here{}", mtu, least, kMostMtu,
                                  config.ipv6 ? " (from 576 with ipv6=off)" : ""));
  }
  config.mtu = mtu;
  for (const std::string& text : settings.get_all("forward")) config.forwards.push_back(parse_forward(text));
  for (const std::string& text : settings.get_all("guestfwd")) {
    config.guest_forwards.push_back(parse_guest_forward(text));
  }
  check_guest_forwards(config);
  for (const Forward& forward : config.forwards) {
    if (!forward.address.is_v4() && !config.ipv6) {
      throw ConfigError(fmt::format("cannot forward '{}' to a guest with ipv6=off", forward.text()));
    }
  }
  return config;
}

}  // namespace minivmm::user_net
