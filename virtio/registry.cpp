#include "virtio/registry.h"

#include <array>

#include "virtio/device/balloon.h"
#include "virtio/device/blk.h"
#include "virtio/device/console.h"
#include "virtio/device/fs.h"
#include "virtio/device/net.h"
#include "virtio/device/rng.h"
#include "virtio/device/vsock.h"

namespace minivmm {

std::span<const VirtioDeviceType> virtio_device_types() {
  static constexpr std::array kTypes{
      kVirtioBlkType,   kVirtioNetType,     kVirtioRngType, kVirtioConsoleType,
      kVirtioVsockType, kVirtioBalloonType, kVirtioFsType,
  };
  return kTypes;
}

}  // namespace minivmm
