#include "boot/initrd.h"

#include <fmt/format.h>
#include <sys/uio.h>

#include <cerrno>

#include "boot/host_file.h"
#include "boot/large_pages.h"
#include "boot/placement.h"

namespace minivmm {

Initrd::Initrd(const std::filesystem::path& path) : name_(path.string()) {
  HostFile opened = open_host_file(path, "initrd");
  file_ = std::move(opened.fd);
  size_ = opened.size;
}

Initrd::Initrd(std::vector<std::byte> bytes)
    : name_("initrd"), bytes_(std::move(bytes)), size_(bytes_.size()) {}

Gpa Initrd::place(PlacementMap& map, uint64_t limit) const {
  const auto base = map.highest(size_, kPageSize, limit);
  if (!base) {
    throw HostError(
        ENOMEM, fmt::format("the initrd '{}' does not fit: it needs {} KiB of guest memory below {} MiB, the "
                            "largest free piece there has {} KiB; give the guest more with --memory",
                            name_, (size_ + 1023) / 1024, limit >> 20, map.largest_free(limit) / 1024));
  }
  map.take(*base, size_);
  return Gpa{*base};
}

void Initrd::copy_to(GuestMemory& memory, Gpa where) const {
  if (!file_) {
    if (!memory.write(where, bytes_)) throw HostError(EFAULT, "the initrd's place is outside guest memory");
    return;
  }
  IoVec pieces;
  if (!memory.slices(where, size_, Access::write, pieces)) {
    throw HostError(EFAULT, "the initrd's place is outside guest memory");
  }
  expect_fill(memory, where, size_);
  uint64_t done = 0;
  for (const iovec& piece : pieces) {
    for (size_t at = 0; at < piece.iov_len;) {
      const iovec rest{static_cast<std::byte*>(piece.iov_base) + at, piece.iov_len - at};
      const ssize_t n = ::preadv(file_.get(), &rest, 1, static_cast<off_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw_errno(fmt::format("read the initrd '{}'", name_));
      if (n == 0) {
        throw HostError(EIO, fmt::format("the initrd '{}' ends at byte {}, it had {} when it was opened",
                                         name_, done, size_));
      }
      at += static_cast<size_t>(n);
      done += static_cast<uint64_t>(n);
    }
  }
  memory.mark_dirty(where, size_);
}

}  // namespace minivmm
