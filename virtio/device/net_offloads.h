// Offloads: which features stand for which, and whether a header asks for no more than what was agreed on.
#pragma once

#include <cstdint>

#include "virtio/device/net_spec.h"
#include "vmm/core/error.h"

namespace minivmm::net {

// The feature bits for what the back end takes (HOST_*, CSUM) and gives (GUEST_*, GUEST_CSUM).
uint64_t host_features(NetOffloads takes);
uint64_t guest_features(NetOffloads gives);
// And back; bits that depend on another one that is not there are left out (5.1.3.1).
NetOffloads host_offloads(uint64_t features);
NetOffloads guest_offloads(uint64_t features);

// Of a frame of so many bytes, that may ask for `allowed`. Errc::invalid for what makes no sense or was not
// agreed on; otherwise it is left with the fields that mean something, and zeroes. What the header says lies
// in the frame then. num_buffers is 0 afterwards.
Result<void> check_header(Header& header, uint64_t frame_bytes, NetOffloads allowed);

}  // namespace minivmm::net
