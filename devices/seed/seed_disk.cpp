#include "devices/seed/seed_disk.h"

#include <sys/stat.h>

#include <utility>

#include "devices/block/raw.h"
#include "vmm/core/error.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

OpenedDisk make_seed_disk(const CloudInitConfig& config, const NoCloudDefaults& defaults) {
  NoCloud seed = read_nocloud(config, defaults);
  UniqueFd image = make_iso_image(kNoCloudLabel, seed.files);
  struct stat info{};
  if (::fstat(image.get(), &info) != 0) throw_errno("look at the cloud-init disk");
  const auto size = static_cast<uint64_t>(info.st_size);
  const std::string name = spec_head(kSeedDiskSpec);
  OpenedDisk disk;
  disk.backend = RawImage::open(
      std::make_unique<BlockFile>(std::move(image), name, BlockFileOptions{.read_only = true}, size));
  disk.chain.push_back({.path = name, .format = "raw", .capacity = disk.backend->capacity()});
  disk.warnings = std::move(seed.warnings);
  return disk;
}

}  // namespace minivmm
