// One descriptor of the kernel's vhost (linux/vhost.h, linux/vhost_types.h): its features, its view of guest
// memory, its rings. Which rings run, and on what, is a matter of the device's own ioctls.
#pragma once

#include <cstdint>

#include "virtio/vhost/data_plane.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"
#include "vmm/core/guest_memory.h"

namespace minivmm {

class KernelVhost {
 public:
  // `fd`: /dev/vhost-net or its like, that nobody has used. `what` is for messages: "/dev/vhost-net". Throws
  // HostError.
  KernelVhost(UniqueFd fd, const char* what);

  int fd() const { return fd_.get(); }
  uint64_t features() const { return features_; }

  // With no ring running.
  Result<void> set_features(uint64_t features) const;
  Result<void> set_memory(const GuestMemory& memory) const;

  // All of the ring that is common to vhost devices; it does not run yet.
  Result<void> set_up_ring(unsigned index, const RemoteRing& ring) const;
  // Of a ring that does not run any more: where it has come.
  Result<uint16_t> ring_base(unsigned index) const;

 private:
  UniqueFd fd_;
  uint64_t features_ = 0;
};

}  // namespace minivmm
