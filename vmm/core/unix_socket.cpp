#include "vmm/core/unix_socket.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace minivmm {

namespace {

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

bool usable(const std::string& path) {
  return !path.empty() && path.size() <= kMaxUnixPath && path.find('\0') == std::string::npos;
}

UniqueFd new_socket() {
  return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

// A socket that refuses is one whose owner has died.
bool is_stale(const std::string& path, const sockaddr_un& address) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return false;
  const UniqueFd probe = new_socket();
  return probe && ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
         errno == ECONNREFUSED;
}

}  // namespace

UniqueFd listen_on_unix_socket(const std::string& path, std::string_view clients, int backlog) {
  const std::string tried = fmt::format("listen for {} on {}", clients, path);
  if (!usable(path)) {
    errno = ENAMETOOLONG;
    throw_errno(tried, "a socket's path has 1 to 107 bytes");
  }
  const sockaddr_un address = address_of(path);
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  UniqueFd listener = new_socket();
  if (!listener) throw_errno(tried);
  if (::bind(listener.get(), generic, sizeof address) != 0) {
    if (errno != EADDRINUSE) throw_errno(tried, "name a path in a directory that can be written");
    if (!is_stale(path, address) || ::unlink(path.c_str()) != 0 ||
        ::bind(listener.get(), generic, sizeof address) != 0) {
      errno = EADDRINUSE;
      throw_errno(tried, "another program uses that path: name another");
    }
  }
  if (::listen(listener.get(), backlog) != 0) throw_errno(tried);
  return listener;
}

Result<UniqueFd> connect_to_unix_socket(const std::string& path) {
  if (!usable(path)) return fail(Errc::invalid, "no socket can have that path");
  const sockaddr_un address = address_of(path);
  UniqueFd fd = new_socket();
  if (!fd) return fail(Errc::io, "the host has no more descriptors");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail(Errc::closed, "nobody takes connections there");
  }
  return fd;
}

}  // namespace minivmm
