// How fast a network interface of the host says that it is.
#pragma once

#include <cstdint>
#include <string>

#include "devices/net/net_backend.h"

namespace minivmm {

// Mbit/s, or kLinkSpeedUnknown. A tap says what `ethtool -s tap0 speed N` has told it, and before that 10
// Gbit/s (10 Mbit/s before Linux 5.17); a macvtap device says what the card below it does.
uint32_t link_speed(const std::string& name);

}  // namespace minivmm
