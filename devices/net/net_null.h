// A network card whose cable is plugged in nowhere: the guest sees it without a link.
#pragma once

#include "devices/net/open_net.h"

namespace minivmm {

std::unique_ptr<NetBackend> create_null_net(const NetSpec&, const NetContext&);

inline constexpr NetBackendType kNullNetType{
    .name = "null",
    .help = "no cable is plugged in",
    .keys = {},
    .create = create_null_net,
};

}  // namespace minivmm
