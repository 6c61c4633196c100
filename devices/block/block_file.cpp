#include "devices/block/block_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "devices/block/file_lock.h"

namespace minivmm {

namespace {

const char* mend_open(int error, const BlockFileOptions& options) {
  switch (error) {
    case EACCES:
    case EPERM:
    case EROFS:
      return options.read_only ? "give yourself read permission"
                               : "give yourself write permission, or add readonly=on";
    case EEXIST: return "name a file that does not exist yet";
    case EINVAL:
      if (options.cache == CacheMode::none)
        return "its file system may have no O_DIRECT: leave out cache=none";
      break;
    default: break;
  }
  return options.create ? "name a file in a folder you can write to"
                        : "name an existing disk image or block device";
}

int open_flags(const BlockFileOptions& options) {
  return (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY |
         (options.cache == CacheMode::none ? O_DIRECT : 0) | (options.create ? O_CREAT | O_EXCL : 0);
}

}  // namespace

std::unique_ptr<BlockFile> BlockFile::open(const std::string& path, const BlockFileOptions& options) {
  const std::string what = fmt::format("disk image {}", path);
  // Opened before anything is asked about it, so that what was checked is what is used. Non-blocking, or a
  // FIFO would hang us.
  UniqueFd fd(::open(path.c_str(), open_flags(options), 0666));
  if (!fd) {
    throw_errno(fmt::format("{} the {}", options.create ? "create" : "open", what),
                mend_open(errno, options));
  }
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) throw_errno(fmt::format("inspect the {}", what));
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    throw HostError(EINVAL,
                    fmt::format("cannot use the {}: it is {}; name a disk image file or a block device", what,
                                S_ISDIR(info.st_mode) ? "a directory" : "not a file"));
  }
  // io_uring(7) would give a non-blocking file's reads up instead of waiting for the disk.
  if (::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK) != 0) {
    throw_errno(fmt::format("prepare the {}", what));
  }
  if (options.lock) lock_file(fd.get(), options.read_only ? LockMode::shared : LockMode::exclusive, what);
  auto size = static_cast<uint64_t>(info.st_size);
  if (S_ISBLK(info.st_mode) && ::ioctl(fd.get(), BLKGETSIZE64, &size) != 0) {
    throw_errno(fmt::format("read the size of the {}", what));
  }
  return std::make_unique<BlockFile>(std::move(fd), path, options, size);
}

BlockFile::BlockFile(UniqueFd fd, std::string path, const BlockFileOptions& options, uint64_t size_bytes)
    : fd_(std::move(fd)), path_(std::move(path)), options_(options), size_(size_bytes) {
  struct stat info{};
  is_device_ = ::fstat(fd_.get(), &info) == 0 && S_ISBLK(info.st_mode);
  if (options_.cache == CacheMode::none) find_alignment();
}

BlockFile::~BlockFile() {
  // Not left to close(2): io_uring may hold the file for a moment after its last request has ended.
  if (options_.lock && !options_.read_only) unlock_file(fd_.get());
}

void BlockFile::find_alignment() {
#ifdef STATX_DIOALIGN
  struct statx info{};
  if (::statx(fd_.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0 && std::has_single_bit(info.stx_dio_offset_align) &&
      std::has_single_bit(info.stx_dio_mem_align)) {
    alignment_ = std::max(info.stx_dio_offset_align, 512U);
    memory_alignment_ = info.stx_dio_mem_align;
    return;
  }
#endif
  // Before Linux 6.1: the device's sector, or the file system's block, which is never less.
  alignment_ = 4096;
  int sector = 0;
  struct stat file{};
  if (is_device_) {
    if (::ioctl(fd_.get(), BLKSSZGET, &sector) == 0 && sector >= 512) {
      alignment_ = static_cast<uint32_t>(sector);
    }
  } else if (::fstat(fd_.get(), &file) == 0) {
    const auto block = static_cast<uint64_t>(file.st_blksize);
    if (std::has_single_bit(block) && block >= 512 && block <= 65536)
      alignment_ = static_cast<uint32_t>(block);
  }
  memory_alignment_ = alignment_;
}

Result<void> BlockFile::resize(uint64_t size_bytes) {
  if (is_device_) return fail(Errc::unsupported, "a block device's size is what it is");
  if (::ftruncate(fd_.get(), static_cast<off_t>(size_bytes)) != 0) {
    switch (errno) {
      case ENOSPC:
      case EDQUOT: return fail(Errc::no_space, "the disk image's file system is full");
      case EFBIG:
      case EINVAL: return fail(Errc::too_large, "the disk image's file system has no files that large");
      default: return fail(Errc::io, "the disk image's size cannot be changed");
    }
  }
  size_.store(size_bytes, std::memory_order_release);
  return {};
}

Result<uint64_t> BlockFile::measure() {
  uint64_t found = 0;
  struct stat info{};
  if (is_device_ ? ::ioctl(fd_.get(), BLKGETSIZE64, &found) != 0 : ::fstat(fd_.get(), &info) != 0) {
    return fail(Errc::io, "the disk image's size cannot be read");
  }
  if (!is_device_) found = static_cast<uint64_t>(info.st_size);
  uint64_t size = size_.load(std::memory_order_relaxed);
  while (size < found && !size_.compare_exchange_weak(size, found, std::memory_order_acq_rel)) {
  }
  return found;
}

}  // namespace minivmm
