#include "devices/block/disk_bytes.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace minivmm {

namespace {

constexpr uint64_t kStep = uint64_t{1} << 20;  // bytes of one request; a multiple of kSectorSize

}  // namespace

DiskBytes::DiskBytes(BlockBackend& disk) : disk_(disk), engine_(IoEngine::create()) {}

Result<void> DiskBytes::run_now(const BlockRequest& request) const {
  return engine_->run(disk_.run(*engine_, request));
}

// By whole sectors, as the block layer takes them.
Result<void> DiskBytes::read(uint64_t offset, std::span<std::byte> out) const {
  if (offset > size() || out.size() > size() - offset)
    return fail(Errc::out_of_range, "a read past the end of the disk");
  std::vector<std::byte> sectors;
  while (!out.empty()) {
    const uint64_t first = offset / kSectorSize * kSectorSize;
    const uint64_t skip = offset - first;
    const uint64_t taken = std::min<uint64_t>(out.size(), kStep - skip);
    const uint64_t length = (skip + taken + kSectorSize - 1) / kSectorSize * kSectorSize;
    const bool direct = skip == 0 && length == taken;
    if (!direct) sectors.resize(length);
    const iovec piece{direct ? out.data() : sectors.data(), length};
    const auto done =
        run_now({.op = BlockOp::read, .offset = first, .length = length, .data = std::span(&piece, 1)});
    if (!done) return done;
    if (!direct) std::memcpy(out.data(), sectors.data() + skip, taken);
    out = out.subspan(taken);
    offset += taken;
  }
  return {};
}

Result<void> DiskBytes::write(uint64_t offset, std::span<const std::byte> bytes) {
  if (offset > size() || bytes.size() > size() - offset)
    return fail(Errc::out_of_range, "a write past the end of the disk");
  std::vector<std::byte> copy(bytes.begin(), bytes.end());
  const iovec piece{copy.data(), copy.size()};
  return run_now(
      {.op = BlockOp::write, .offset = offset, .length = bytes.size(), .data = std::span(&piece, 1)});
}

Result<void> DiskBytes::flush() {
  return run_now({.op = BlockOp::flush});
}

}  // namespace minivmm
