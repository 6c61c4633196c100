// --net internal: a private network of this user's machines on this host.
#pragma once

#include <array>

#include "devices/net/open_net.h"

namespace minivmm {

std::unique_ptr<NetBackend> create_internal_net(const NetSpec&, const NetContext&);

inline constexpr std::array<std::string_view, 1> kInternalKeys{"name"};
inline constexpr NetBackendType kInternalNetType{
    .name = "internal",
    .help = "a private network of this user's machines on this host, name=NAME (intnet); needs no rights",
    .keys = kInternalKeys,
    .create = create_internal_net,
};

}  // namespace minivmm
