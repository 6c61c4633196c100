#include "devices/net/netns_lock.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "vmm/core/error.h"

namespace minivmm {

std::optional<UniqueFd> try_netns_lock(std::string_view name) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("open a socket to lock by");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string text = fmt::format("minivmm/{}", name);
  const size_t length = std::min(text.size(), sizeof address.sun_path - 1);
  std::memcpy(address.sun_path + 1, text.data(), length);  // a NUL first: the abstract namespace
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0) return fd;
  if (errno == EADDRINUSE) return std::nullopt;
  throw_errno(fmt::format("lock '{}'", name));
}

UniqueFd take_netns_lock(std::string_view name, std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    if (auto lock = try_netns_lock(name)) return std::move(*lock);
    if (std::chrono::steady_clock::now() >= deadline) {
      throw HostError(
          EBUSY, fmt::format("cannot lock '{}': another minivmm has held it for {} ms", name, limit.count()));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace minivmm
