#include "devices/block/raw.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <utility>

#include "devices/block/file_lock.h"

namespace minivmm {

namespace {

// One system call moves no more than this, so that a stop is noticed between two of them.
constexpr uint64_t kMaxTransfer = uint64_t{16} << 20;
constexpr size_t kMaxPieces = 1024;  // IOV_MAX

Result<void> failed(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT: return fail(Errc::no_space, "the disk image's file system is full");
    case EOPNOTSUPP:
    case ENOSYS: return fail(Errc::unsupported, "the disk image's file system cannot do this");
    default: return fail(Errc::io, "the disk image's storage failed");
  }
}

Result<void> check_stop(const BlockRequest& request) {
  if (request.stop != nullptr && request.stop->give_up()) return fail(Errc::closed, "stopped");
  return {};
}

// Walks a request's pieces by what each system call moved.
class Cursor {
 public:
  explicit Cursor(std::span<const iovec> pieces) : pieces_(pieces) {}

  // The next pieces, at most kMaxTransfer bytes; the scratch space is used only where a piece has to be cut.
  std::span<const iovec> next() {
    uint64_t bytes = 0;
    size_t count = 0;
    bool cut = skip_ != 0;
    while (count < pieces_.size() && count < kMaxPieces && bytes < kMaxTransfer) {
      bytes += pieces_[count].iov_len - (count == 0 ? skip_ : 0);
      ++count;
    }
    if (bytes > kMaxTransfer) cut = true;
    if (!cut) return pieces_.first(count);
    scratch_.assign(pieces_.begin(), pieces_.begin() + static_cast<std::ptrdiff_t>(count));
    scratch_[0].iov_base = static_cast<std::byte*>(scratch_[0].iov_base) + skip_;
    scratch_[0].iov_len -= skip_;
    if (bytes > kMaxTransfer) scratch_.back().iov_len -= bytes - kMaxTransfer;
    return scratch_;
  }

  void advance(uint64_t moved) {
    skip_ += moved;
    while (!pieces_.empty() && skip_ >= pieces_.front().iov_len) {
      skip_ -= pieces_.front().iov_len;
      pieces_ = pieces_.subspan(1);
    }
  }

 private:
  std::span<const iovec> pieces_;
  uint64_t skip_ = 0;  // bytes of the first piece that are done
  std::vector<iovec> scratch_;
};

BlockGeometry file_geometry(const struct stat& info) {
  BlockGeometry geometry;
  const auto block = static_cast<uint64_t>(info.st_blksize);
  if (std::has_single_bit(block) && block >= kSectorSize && block <= 65536) {
    geometry.physical_block = static_cast<uint32_t>(block);
  }
  return geometry;
}

uint64_t device_geometry(int fd, const std::string& what, BlockGeometry& geometry) {
  uint64_t size = 0;
  if (::ioctl(fd, BLKGETSIZE64, &size) != 0) throw_errno(fmt::format("read the size of the {}", what));
  int logical = 0;
  unsigned physical = 0;
  unsigned optimal = 0;
  if (::ioctl(fd, BLKSSZGET, &logical) == 0 && logical > 0) {
    geometry.logical_block = static_cast<uint32_t>(logical);
  }
  if (::ioctl(fd, BLKPBSZGET, &physical) == 0) geometry.physical_block = physical;
  if (::ioctl(fd, BLKIOOPT, &optimal) == 0) geometry.optimal_io = optimal;
  geometry.physical_block = std::max(geometry.physical_block, geometry.logical_block);
  return size;
}

}  // namespace

std::unique_ptr<RawImage> RawImage::open(const std::string& path, bool read_only) {
  const std::string what = fmt::format("disk image {}", path);
  // Opened before anything is asked about it, so that what was checked is what is used. Non-blocking, or a
  // FIFO would hang us.
  UniqueFd fd(::open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) {
    const bool denied = errno == EACCES || errno == EPERM || errno == EROFS;
    throw_errno(fmt::format("open the {}", what), denied && !read_only
                                                      ? "give yourself write permission, or add readonly=on"
                                                  : denied ? "give yourself read permission"
                                                           : "name an existing raw image or block device");
  }
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) throw_errno(fmt::format("inspect the {}", what));
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    throw HostError(EINVAL,
                    fmt::format("cannot use the {}: it is {}; name a raw image file or a block device", what,
                                S_ISDIR(info.st_mode) ? "a directory" : "not a file"));
  }
  lock_file(fd.get(), read_only ? LockMode::shared : LockMode::exclusive, what);
  BlockGeometry geometry = file_geometry(info);
  auto size = static_cast<uint64_t>(info.st_size);
  if (S_ISBLK(info.st_mode)) {
    geometry = {};
    size = device_geometry(fd.get(), what, geometry);
  }
  if (size < kSectorSize) {
    throw HostError(EINVAL, fmt::format("cannot use the {}: it has {} bytes, and a sector has {}; make it "
                                        "larger (truncate --size=1G)",
                                        what, size, kSectorSize));
  }
  return std::make_unique<RawImage>(std::move(fd), read_only, size, geometry);
}

RawImage::RawImage(UniqueFd fd, bool read_only, uint64_t size_bytes, const BlockGeometry& geometry)
    : fd_(std::move(fd)),
      read_only_(read_only),
      capacity_(size_bytes / kSectorSize * kSectorSize),
      ignored_(size_bytes % kSectorSize),
      geometry_(geometry) {}

void RawImage::submit(const BlockRequest& request, BlockCompletion completion) {
  completion(run(request));
}

Result<void> RawImage::run(const BlockRequest& request) const {
  switch (request.op) {
    case BlockOp::read:
    case BlockOp::write: return transfer(request);
    case BlockOp::flush:
      // The size never changes, so its metadata need not be flushed; fdatasync does flush what is needed to
      // find newly allocated blocks again.
      if (::fdatasync(fd_.get()) != 0) return failed(errno);
      return {};
    case BlockOp::discard:
      if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      static_cast<off_t>(request.offset), static_cast<off_t>(request.length)) != 0 &&
          errno != EOPNOTSUPP) {
        return failed(errno);
      }
      return {};
    case BlockOp::write_zeroes: return write_zeroes(request);
  }
  return fail(Errc::unsupported, "no such operation");
}

Result<void> RawImage::transfer(const BlockRequest& request) const {
  Cursor cursor(request.data);
  uint64_t done = 0;
  while (done < request.length) {
    if (auto going = check_stop(request); !going) return going;
    const auto pieces = cursor.next();
    const auto count = static_cast<int>(pieces.size());
    const auto offset = static_cast<off_t>(request.offset + done);
    const ssize_t moved = request.op == BlockOp::read ? ::preadv(fd_.get(), pieces.data(), count, offset)
                                                      : ::pwritev(fd_.get(), pieces.data(), count, offset);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return failed(errno);
    if (moved == 0) return fail(Errc::io, "the disk image became shorter");
    cursor.advance(static_cast<uint64_t>(moved));
    done += static_cast<uint64_t>(moved);
  }
  return {};
}

Result<void> RawImage::write_zeroes(const BlockRequest& request) const {
  const int mode = request.may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
  if (::fallocate(fd_.get(), mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(request.offset),
                  static_cast<off_t>(request.length)) == 0) {
    return {};
  }
  if (errno != EOPNOTSUPP) return failed(errno);
  // Neither on this file system: write them.
  static constexpr std::array<std::byte, 65536> kZeroes{};
  uint64_t done = 0;
  while (done < request.length) {
    if (auto going = check_stop(request); !going) return going;
    const ssize_t moved =
        ::pwrite(fd_.get(), kZeroes.data(), std::min<uint64_t>(kZeroes.size(), request.length - done),
                 static_cast<off_t>(request.offset + done));
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return failed(errno);
    done += static_cast<uint64_t>(moved);
  }
  return {};
}

}  // namespace minivmm
