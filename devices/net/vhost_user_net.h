// --net vhost-user: another program, a software switch say, works on the card's rings.
#pragma once

#include <array>

#include "devices/net/open_net.h"

namespace minivmm {

std::unique_ptr<NetBackend> create_vhost_user_net(const NetSpec&, const NetContext&);

inline constexpr std::array<std::string_view, 1> kVhostUserKeys{"socket"};
inline constexpr NetBackendType kVhostUserNetType{
    .name = "vhost-user",
    .help =
        "another program that listens on socket=PATH moves the frames, with the guest's memory in its hands",
    .keys = kVhostUserKeys,
    .create = create_vhost_user_net,
    .shares_memory = true,
};

}  // namespace minivmm
