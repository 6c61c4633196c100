#include "vmm/core/run_folder.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "vmm/core/error.h"

namespace minivmm {

std::filesystem::path run_folder() {
  const char* const given = std::getenv("XDG_RUNTIME_DIR");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  const uid_t user = ::geteuid();
  const std::filesystem::path folder =
      given != nullptr && *given == '/' ? std::filesystem::path(given) / "minivmm"
      : user == 0                       ? std::filesystem::path("/run/minivmm")
                                        : std::filesystem::path(fmt::format("/tmp/minivmm-{}", user));
  const std::string tried = fmt::format("make the folder {}", folder.string());
  constexpr const char* kMend = "set XDG_RUNTIME_DIR to a folder of your own";
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) throw_errno(tried, kMend);
  // In /tmp anybody may have made it before us: then what is said there is not for them.
  struct stat info{};
  if (::lstat(folder.c_str(), &info) != 0) throw_errno(tried, kMend);
  if (!S_ISDIR(info.st_mode) || info.st_uid != user || (info.st_mode & 022) != 0) {
    throw HostError(EPERM,
                    fmt::format("cannot use the folder {}: it is not one that only this user can write to; "
                                "remove it, or {}",
                                folder.string(), kMend));
  }
  return folder;
}

}  // namespace minivmm
