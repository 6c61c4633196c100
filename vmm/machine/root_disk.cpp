#include "vmm/machine/root_disk.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <vector>

#include "devices/block/raw.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

constexpr uint64_t kReach = uint64_t{1}
                            << 20;  // of one read: partition tables and superblocks are far smaller

// Any bytes of the disk, by whole sectors, waiting for them.
Result<void> read_now(BlockBackend& disk, uint64_t offset, std::span<std::byte> out) {
  if (out.size() > kReach || offset > disk.capacity() || out.size() > disk.capacity() - offset) {
    return fail(Errc::out_of_range, "past the end of the disk");
  }
  const uint64_t first = offset / kSectorSize * kSectorSize;
  const uint64_t end = (offset + out.size() + kSectorSize - 1) / kSectorSize * kSectorSize;
  std::vector<std::byte> sectors(end - first);
  const iovec piece{sectors.data(), sectors.size()};
  std::promise<Result<void>> answer;
  disk.submit(
      {.op = BlockOp::read, .offset = first, .length = sectors.size(), .data = std::span(&piece, 1)},
      {.done = [](void* to,
                  Result<void> result) { static_cast<std::promise<Result<void>>*>(to)->set_value(result); },
       .context = &answer});
  auto result = answer.get_future().get();
  if (result) std::memcpy(out.data(), sectors.data() + (offset - first), out.size());
  return result;
}

}  // namespace

RootDevice find_root_disk(const MachineConfig& config) {
  const auto disk = std::ranges::find(config.virtio, "blk", &VirtioConfig::type);
  if (disk == config.virtio.end()) return {};
  const auto image = RawImage::open(spec_head(disk->spec), true);
  const DiskReader read = [&image](uint64_t offset, std::span<std::byte> out) {
    return read_now(*image, offset, out);
  };
  return find_root_device(read, image->capacity(), "/dev/vda");
}

}  // namespace minivmm
