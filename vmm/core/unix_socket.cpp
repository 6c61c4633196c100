#include "vmm/core/unix_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

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

// Between bind() and listen() a socket refuses as a stale one does, and two may find the same one stale: only
// one program at a time looks at a folder's sockets. Where the folder cannot be read, or a stranger keeps it
// locked, it is done without. The lock ends with the descriptor.
UniqueFd lock_folder_of(const std::string& path) {
  constexpr int kTries = 100;
  constexpr int kPauseMs = 10;
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int i = 0; fd && i < kTries && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; ++i)
    ::poll(nullptr, 0, kPauseMs);
  return fd;
}

}  // namespace

UnixListener& UnixListener::operator=(UnixListener&& other) noexcept {
  if (this != &other) {
    remove();
    fd_ = std::move(other.fd_);
    path_ = std::move(other.path_);
    device_ = other.device_;
    inode_ = other.inode_;
  }
  return *this;
}

void UnixListener::remove() {
  if (!fd_) return;
  const UniqueFd lock = lock_folder_of(path_);
  struct stat info{};
  if (::lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_)
    ::unlink(path_.c_str());
  fd_.reset();
}

UnixListener listen_on_unix_socket(const std::string& path, std::string_view clients, int backlog) {
  const std::string tried = fmt::format("listen for {} on {}", clients, path);
  if (!usable(path)) {
    errno = ENAMETOOLONG;
    throw_errno(tried, "a socket's path has 1 to 107 bytes");
  }
  const sockaddr_un address = address_of(path);
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  UniqueFd fd = new_socket();
  if (!fd) throw_errno(tried);
  const UniqueFd lock = lock_folder_of(path);
  if (::bind(fd.get(), generic, sizeof address) != 0) {
    if (errno != EADDRINUSE) throw_errno(tried, "name a path in a directory that can be written");
    if (!is_stale(path, address) || ::unlink(path.c_str()) != 0 ||
        ::bind(fd.get(), generic, sizeof address) != 0) {
      errno = EADDRINUSE;
      throw_errno(tried, "another program uses that path: name another");
    }
  }
  UnixListener listener;
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) throw_errno(tried);
  listener.fd_ = std::move(fd);
  listener.path_ = path;
  listener.device_ = info.st_dev;
  listener.inode_ = info.st_ino;
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
