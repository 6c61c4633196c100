// The host's side of a socket device: what its ports are on the host.
#pragma once

#include <string>

#include "vmm/core/error.h"
#include "vmm/core/fd.h"
#include "vmm/core/unix_socket.h"

namespace minivmm {

// All descriptors are stream sockets that do not block. Calls do not either.
class VsockHost {
 public:
  virtual ~VsockHost() = default;
  // A connection to who listens on `port` for the guest's. Errors: nobody does, or they are busy.
  virtual Result<UniqueFd> connect(uint32_t port) = 0;
  // Where programs of the host connect, to be passed on to a port of the guest that they name; -1: nowhere.
  virtual int listener() const = 0;
  // Errc::no_space: the host has no descriptors left, but somebody waits; any other: nobody waits.
  virtual Result<UniqueFd> accept() = 0;
};

// Throws ConfigError for a path that is none, or too long with a port's number after it.
void check_vsock_path(const std::string& path);

// Unix sockets as Firecracker documents them (docs/vsock.md there): programs of the host connect to PATH and
// write "CONNECT <port>\n"; the guest's connections to port N arrive at PATH_N, which a program listens on.
class UnixVsockHost final : public VsockHost {
 public:
  // Listens on `path`, in place of a dead socket there. Throws HostError, and as check_vsock_path().
  explicit UnixVsockHost(std::string path);
  UnixVsockHost(const UnixVsockHost&) = delete;
  UnixVsockHost& operator=(const UnixVsockHost&) = delete;
  ~UnixVsockHost() override = default;  // removes the socket

  const std::string& path() const { return path_; }
  Result<UniqueFd> connect(uint32_t port) override;
  int listener() const override { return listener_.get(); }
  Result<UniqueFd> accept() override;

 private:
  std::string path_;
  UnixListener listener_;
};

}  // namespace minivmm
