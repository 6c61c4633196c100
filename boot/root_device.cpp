#include "boot/root_device.h"

#include "boot/file_system.h"
#include "boot/partition_table.h"

namespace minivmm {

RootDevice find_root_device(const ByteSource& disk, const std::string& whole_disk) {
  // A file system first: mkfs may leave an old partition table in the sectors it does not use.
  if (const auto found = probe_file_system(disk)) {
    return {.root = whole_disk, .file_system = found->name, .read_only = found->read_only};
  }
  const auto partition = find_root_partition(disk);
  if (!partition) return {};
  RootDevice root{.root = "PARTUUID=" + partition->uuid};
  if (const auto found = probe_file_system(ByteRange(disk, partition->offset, partition->size))) {
    root.file_system = found->name;
    root.read_only = found->read_only;
  }
  return root;
}

}  // namespace minivmm
