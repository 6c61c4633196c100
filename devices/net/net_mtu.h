// A limit on the size of packets: both sides are told it, and larger ones are dropped.
#pragma once

#include <memory>

#include "devices/net/net_backend.h"

namespace minivmm {

// `mtu` is in bytes of the IP packet. Segments that are still to be cut (TSO, USO) are not measured: those
// who cut them keep to the MTU they have been told (virtio 1.2, 5.1.4.2).
std::unique_ptr<NetBackend> limit_net_mtu(std::unique_ptr<NetBackend> below, uint16_t mtu);

}  // namespace minivmm
