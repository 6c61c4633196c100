// --net user: user networking among the back ends.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "devices/net/open_net.h"
#include "devices/net/user/user_config.h"

namespace minivmm {

std::unique_ptr<NetBackend> create_user_net(const NetSpec&, const NetContext&);
// Why this host has no user networking, and what mends that; empty: it has.
std::string user_net_missing();

inline constexpr NetBackendType kUserNetType{
    .name = "user",
    .help =
        "a NAT without privileges, with DHCP and DNS; forward=[ADDR:]HOST:GUEST[/udp] (as -p), restrict=on, "
        "host-loopback=on, guestfwd=ADDR:PORT-tcp:ADDR:PORT or ADDR:PORT-unix:PATH, net=10.0.2.0/24, "
        "ipv6=off, "
        "hostname=, domain=, dns=ADDR[:PORT]",
    .keys = user_net::kUserNetKeys,
    .create = create_user_net,
};

// What `--net SPEC` becomes with `-p FORWARD`; nullopt: it is no card on user networking. Throws ConfigError
// for a forward that makes no sense.
std::optional<std::string> with_forward(std::string_view spec, std::string_view forward);

}  // namespace minivmm
