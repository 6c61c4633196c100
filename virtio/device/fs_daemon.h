// An installed virtiofsd of our own for one shared folder: in namespaces of its own, and gone when we are.
#pragma once

#include <memory>
#include <string>

#include "devices/block/foreign/child_process.h"
#include "virtio/device/fs_share.h"
#include "vmm/core/fd.h"

namespace minivmm {

class ShareDaemon {
 public:
  // Read-only is a read-only mount on the host's side, below whatever the daemon does. Throws HostError: no
  // such folder, no virtiofsd, or it does not start.
  explicit ShareDaemon(const ShareSpec& share);

  // The vhost-user connection to it, once.
  UniqueFd take_socket() { return std::move(socket_); }
  // Why it does not answer, for an error message; empty: it lives.
  std::string reason();

 private:
  UniqueFd socket_;
  std::unique_ptr<ChildProcess> child_;
};

// Its path on this host; empty: it is not installed.
std::string find_virtiofsd();

}  // namespace minivmm
