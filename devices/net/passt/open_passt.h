// --net passt: a passt(1) of its own, or one that listens at a socket.
#pragma once

#include <array>

#include "devices/net/open_net.h"

namespace minivmm {

std::unique_ptr<NetBackend> create_passt_net(const NetSpec&, const NetContext&);

inline constexpr std::array<std::string_view, 3> kPasstKeys{"socket", "tcp", "udp"};
inline constexpr NetBackendType kPasstNetType{
    .name = "passt",
    .help =
        "by passt(1), without rights: it is started, with tcp=PORTS and udp=PORTS forwarded (in its "
        "--tcp-ports "
        "syntax), or is listening at socket=PATH",
    .keys = kPasstKeys,
    .create = create_passt_net,
};

}  // namespace minivmm
