// What tun(4) descriptors are asked to do (Documentation/networking/tuntap.rst, linux/if_tun.h); macvtap's
// understand the same.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "devices/net/mac_address.h"
#include "devices/net/net_backend.h"
#include "vmm/core/fd.h"

namespace minivmm {

inline constexpr std::string_view kTapPath = "/dev/net/tun";

// Attaches `fd` to the tap `name`, which is made if there is none ("mv%d": the kernel chooses the number).
// 0 or an errno value; `name` becomes the real one.
int attach_tap(int fd, std::string& name, bool multi_queue);

// As attach_tap() for a descriptor of /dev/tapN.
int attach_macvtap(int fd, bool multi_queue);

struct TapIdentity {
  std::string name;
  MacAddress address;
  bool vnet_header = false;
  bool multi_queue = false;
};
// Throws HostError, naming `fd`, when it is no tap.
TapIdentity identify_tap(int fd);

// The header's size and byte order, no offloads, a queue that is never full, non-blocking. 0 or an errno
// value.
int prepare_tap(int fd);

// What the kernel's taps can do: net_offload bits. Asked of `fd`, whose offloads are none afterwards.
NetOffloads tap_offloads(int fd);
int set_tap_offloads(int fd, NetOffloads offloads);

// Whether the kernel gives frames to this queue of a multiqueue device.
int enable_tap_queue(int fd, bool on);

// False: its interface was deleted.
bool tap_is_attached(int fd);

}  // namespace minivmm
