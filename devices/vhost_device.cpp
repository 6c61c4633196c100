#include "devices/vhost_device.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>

#include "vmm/core/error.h"

namespace minivmm {

UniqueFd open_vhost_device(std::string_view what, std::string_view option) {
  const std::string path = fmt::format("/dev/vhost-{}", what);
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd) return fd;
  const bool missing = errno == ENOENT || errno == ENODEV || errno == ENXIO;
  throw_errno(fmt::format("open {} for {}", path, option),
              missing
                  ? fmt::format("load the kernel's module by: modprobe vhost_{}; or leave vhost=on out", what)
                  : "this user needs read and write access to it (often by the group kvm); or leave "
                    "vhost=on out");
}

}  // namespace minivmm
