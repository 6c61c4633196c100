#include "boot/host_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISBLK(mode)) return "a block device";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISFIFO(mode)) return "a pipe";
  return "no regular file";
}

}  // namespace

HostFile open_host_file(const std::filesystem::path& path, const char* role) {
  // O_NONBLOCK: a pipe without a writer must not hang us before we see what it is.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) throw_errno(fmt::format("open the {} '{}'", role, path.string()));
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) throw_errno(fmt::format("look at the {} '{}'", role, path.string()));
  if (!S_ISREG(status.st_mode)) {
    throw HostError(EINVAL, fmt::format("cannot use '{}' as the {}: it is {}; name a file", path.string(),
                                        role, kind_of(status.st_mode)));
  }
  if (status.st_size == 0) {
    throw HostError(EINVAL, fmt::format("cannot use '{}' as the {}: it is empty", path.string(), role));
  }
  return {std::move(fd), static_cast<uint64_t>(status.st_size)};
}

}  // namespace minivmm
