// The kernel's vhost devices (linux/vhost.h): virtqueues worked on in the kernel.
#pragma once

#include <string>
#include <string_view>

#include "vmm/core/fd.h"

namespace minivmm {

// Opens /dev/vhost-<what> ("net", "vsock"). `option` is what the user asked by, for messages: "--net
// tap,vhost". Throws HostError that says what mends it: the module to load, the right that is missing.
UniqueFd open_vhost_device(std::string_view what, std::string_view option);

}  // namespace minivmm
