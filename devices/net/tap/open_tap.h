// --net tap: a tap device of the host's, its own or one that others made.
#pragma once

#include <array>

#include "devices/net/open_net.h"

namespace minivmm {

std::unique_ptr<NetBackend> create_tap_net(const NetSpec&, const NetContext&);

inline constexpr std::array<std::string_view, 4> kTapKeys{"ifname", "bridge", "fd", "vhost"};
inline constexpr NetBackendType kTapNetType{
    .name = "tap",
    .help =
        "a tap device: ifname=NAME (made if there is none), bridge=NAME (whose port it becomes), fd=N[:N...] "
        "(already open), vhost=on (frames are moved by the kernel); needs CAP_NET_ADMIN unless the device is "
        "there and this user's",
    .keys = kTapKeys,
    .create = create_tap_net,
};

}  // namespace minivmm
