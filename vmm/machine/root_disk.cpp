#include "vmm/machine/root_disk.h"

#include <algorithm>

#include "devices/block/raw.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

RootDevice find_root_disk(const MachineConfig& config) {
  const auto disk = std::ranges::find(config.virtio, "blk", &VirtioConfig::type);
  if (disk == config.virtio.end()) return {};
  const auto image = RawImage::open(spec_head(disk->spec), true);
  const DiskReader read = [&image](uint64_t offset, std::span<std::byte> out) -> Result<void> {
    return read_now(*image, offset, out);
  };
  return find_root_device(read, image->capacity(), "/dev/vda");
}

}  // namespace minivmm
