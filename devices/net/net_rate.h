// A limit on the bytes a second, for each direction by itself, all queues together. What comes too fast
// waits: the guest's frames in its queue, the others at the back end, which drops what it cannot hold.
#pragma once

#include <memory>

#include "devices/net/net_backend.h"
#include "vmm/core/rate_limiter.h"

namespace minivmm {

// Throws HostError when the process is out of descriptors.
std::unique_ptr<NetBackend> limit_net_rate(std::unique_ptr<NetBackend> below,
                                           const RateLimiter::Bucket& bytes);

}  // namespace minivmm
