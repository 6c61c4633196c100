// The data plane that a network back end asks for instead of our own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "devices/net/net_vhost.h"
#include "virtio/vhost/data_plane.h"
#include "vmm/core/log.h"

namespace minivmm {

// `vhost` outlives it, as does `log`. Throws HostError.
std::unique_ptr<DataPlane> make_net_plane(NetVhost& vhost, uint16_t queue_pairs, const std::string& name,
                                          Log& log);

}  // namespace minivmm
