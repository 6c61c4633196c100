#include "devices/block/raw.h"

#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

namespace minivmm {

namespace {

BlockGeometry file_geometry(int fd) {
  BlockGeometry geometry;
  struct stat info{};
  if (::fstat(fd, &info) != 0) return geometry;
  const auto block = static_cast<uint64_t>(info.st_blksize);
  if (std::has_single_bit(block) && block >= kSectorSize && block <= 65536) {
    geometry.physical_block = static_cast<uint32_t>(block);
  }
  return geometry;
}

BlockGeometry device_geometry(int fd) {
  BlockGeometry geometry;
  int logical = 0;
  unsigned physical = 0;
  unsigned optimal = 0;
  if (::ioctl(fd, BLKSSZGET, &logical) == 0 && logical > 0) {
    geometry.logical_block = static_cast<uint32_t>(logical);
  }
  if (::ioctl(fd, BLKPBSZGET, &physical) == 0) geometry.physical_block = physical;
  if (::ioctl(fd, BLKIOOPT, &optimal) == 0) geometry.optimal_io = optimal;
  geometry.physical_block = std::max(geometry.physical_block, geometry.logical_block);
  return geometry;
}

// A task that has ended before it begins.
template <class T>
Task<Result<T>> ended(Result<T> result) {
  co_return result;
}

}  // namespace

std::unique_ptr<RawImage> RawImage::open(const std::string& path, const BlockFileOptions& options) {
  return open(BlockFile::open(path, options));
}

std::unique_ptr<RawImage> RawImage::open(std::unique_ptr<BlockFile> file) {
  if (file->size() < kSectorSize) {
    throw HostError(EINVAL,
                    fmt::format("cannot use the disk image {}: it has {} bytes, and a sector has {}; make it "
                                "larger (truncate --size=1G)",
                                file->path(), file->size(), kSectorSize));
  }
  return std::unique_ptr<RawImage>(new RawImage(std::move(file)));
}

RawImage::RawImage(std::unique_ptr<BlockFile> file)
    : file_(std::move(file)),
      capacity_(file_->size() / kSectorSize * kSectorSize),
      ignored_(file_->size() % kSectorSize),
      geometry_(file_->is_block_device() ? device_geometry(file_->fd()) : file_geometry(file_->fd())) {}

Task<Result<void>> RawImage::run(IoEngine& engine, BlockRequest request) {
  switch (request.op) {
    case BlockOp::read: return file_->read(engine, request.offset, request.data, request.stop);
    case BlockOp::write: return file_->write(engine, request.offset, request.data, request.stop);
    case BlockOp::flush: return file_->sync(engine);
    case BlockOp::discard: return file_->discard(engine, request.offset, request.length);
    case BlockOp::write_zeroes:
      return file_->write_zeroes(engine, request.offset, request.length, request.may_unmap);
  }
  return ended<void>(fail(Errc::unsupported, "no such operation"));
}

Task<Result<BlockExtent>> RawImage::extent(IoEngine& /*engine*/, uint64_t offset, uint64_t length) {
  if (offset >= capacity() || length == 0) {
    co_return fail(Errc::out_of_range, "an extent past the end of the disk");
  }
  length = std::min(length, capacity() - offset);
  BlockExtent extent{.length = length};
  const auto at = static_cast<off_t>(offset);
  const off_t data = ::lseek(file_->fd(), at, SEEK_DATA);
  if (data > at || (data < 0 && errno == ENXIO)) {  // ENXIO: nothing but a hole up to the end
    extent.state = BlockExtent::State::zero;
    if (data > at) extent.length = std::min(length, static_cast<uint64_t>(data) - offset);
  } else {
    // Data; all of it where there are no holes to be had (EINVAL: a block device).
    const off_t hole = data < 0 ? -1 : ::lseek(file_->fd(), at, SEEK_HOLE);
    if (hole > at) extent.length = std::min(length, static_cast<uint64_t>(hole) - offset);
    extent.has_host_offset = true;
    extent.host_offset = offset;
  }
  if (extent.length % kSectorSize != 0) {  // a file without its last sector's rest: that is data
    const uint64_t sectors = extent.length / kSectorSize;
    if (extent.state == BlockExtent::State::zero && sectors > 0) {
      extent.length = sectors * kSectorSize;
    } else {
      extent = {.length = std::min(length, (sectors + 1) * kSectorSize),
                .has_host_offset = true,
                .host_offset = offset};
    }
  }
  co_return extent;
}

Task<Result<void>> RawImage::resize(IoEngine& /*engine*/, uint64_t capacity_bytes) {
  if (capacity_bytes < kSectorSize || capacity_bytes % kSectorSize != 0) {
    co_return fail(Errc::invalid, "a disk's size is a multiple of 512 bytes");
  }
  auto resized = file_->resize(capacity_bytes);
  if (resized) capacity_.store(capacity_bytes, std::memory_order_release);
  co_return resized;
}

Task<Result<void>> RawImage::refresh(IoEngine& /*engine*/) {
  const auto size = file_->measure();
  if (!size) co_return std::unexpected(size.error());
  const uint64_t capacity_now = *size / kSectorSize * kSectorSize;
  if (capacity_now > capacity()) capacity_.store(capacity_now, std::memory_order_release);
  co_return Result<void>{};
}

Task<Result<void>> RawImage::close(IoEngine& engine) {
  return read_only() ? ended<void>({}) : file_->sync(engine);
}

}  // namespace minivmm
