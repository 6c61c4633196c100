#include "devices/block/foreign/served_socket.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>

#include "vmm/core/error.h"

namespace minivmm {

ServedSocket connect_in_advance() {
  std::string folder = (std::filesystem::temp_directory_path() / "minivmm-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    throw_errno(fmt::format("make a folder {}", folder), "set TMPDIR to a folder where you can write");
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = folder + "/socket";
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof address.sun_path - 1));
  const auto* const name = reinterpret_cast<const sockaddr*>(&address);
  ServedSocket out{UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
                   UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))};
  const bool good = out.listening && out.connected && path.size() < sizeof address.sun_path &&
                    ::bind(out.listening.get(), name, sizeof address) == 0 &&
                    ::listen(out.listening.get(), 1) == 0 &&
                    ::connect(out.connected.get(), name, sizeof address) == 0;
  const int error = errno;
  ::unlink(path.c_str());
  ::rmdir(folder.c_str());
  errno = path.size() < sizeof address.sun_path ? error : ENAMETOOLONG;
  if (!good) throw_errno(fmt::format("make a socket {}", path), "set TMPDIR to another folder");
  return out;
}

}  // namespace minivmm
