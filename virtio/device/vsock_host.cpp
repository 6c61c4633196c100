#include "virtio/device/vsock_host.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

namespace minivmm {

namespace {
constexpr int kBacklog = 128;
constexpr size_t kMaxPort = sizeof "_4294967295" - 1;
}  // namespace

void check_vsock_path(const std::string& path) {
  if (path.empty() || path.size() + kMaxPort > kMaxUnixPath) {
    throw ConfigError(
        fmt::format("--vsock: the path '{}' is not one of 1 to {} bytes", path, kMaxUnixPath - kMaxPort));
  }
}

UnixVsockHost::UnixVsockHost(std::string path) : path_(std::move(path)) {
  check_vsock_path(path_);
  listener_ = listen_on_unix_socket(path_, "vsock clients", kBacklog);
}

Result<UniqueFd> UnixVsockHost::connect(uint32_t port) {
  return connect_to_unix_socket(fmt::format("{}_{}", path_, port));
}

Result<UniqueFd> UnixVsockHost::accept() {
  UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (fd) return fd;
  const bool exhausted = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
  return fail(exhausted ? Errc::no_space : Errc::io, "nobody waits to be accepted");
}

}  // namespace minivmm
