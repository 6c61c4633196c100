// --net macvtap: a second address on one of the host's network interfaces.
#pragma once

#include <array>

#include "devices/net/open_net.h"

namespace minivmm {

std::unique_ptr<NetBackend> create_macvtap_net(const NetSpec&, const NetContext&);

inline constexpr std::array<std::string_view, 3> kMacvtapKeys{"link", "mode", "vhost"};
inline constexpr NetBackendType kMacvtapNetType{
    .name = "macvtap",
    .help =
        "bridged to the host's interface link=NAME without a bridge, mode=bridge|vepa|private|passthru, "
        "vhost=on; "
        "needs "
        "CAP_NET_ADMIN",
    .keys = kMacvtapKeys,
    .create = create_macvtap_net,
};

}  // namespace minivmm
