// --net hostonly: the host and its guests, and nobody else.
#pragma once

#include <array>

#include "devices/net/open_net.h"

namespace minivmm {

std::unique_ptr<NetBackend> create_hostonly_net(const NetSpec&, const NetContext&);

inline constexpr std::string_view kHostOnlyNetwork = "192.168.56.1/24";  // as VirtualBox has it
inline constexpr std::string_view kHostOnlyBridge = "minivmm-host";

inline constexpr std::array<std::string_view, 4> kHostOnlyKeys{"net", "bridge", "dhcp", "vhost"};
inline constexpr NetBackendType kHostOnlyNetType{
    .name = "hostonly",
    .help =
        "the host and its guests alone: net=192.168.56.1/24 (the host's address), bridge=minivmm-host (made, "
        "and "
        "removed with the last machine), dhcp=off, vhost=on; needs CAP_NET_ADMIN",
    .keys = kHostOnlyKeys,
    .create = create_hostonly_net,
};

}  // namespace minivmm
