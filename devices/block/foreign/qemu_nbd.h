// qemu-nbd(8) as the reader of formats that we do not read ourselves: it parses the image in a process of its
// own, read-only, and we see the disk's bytes through a private socket.
#pragma once

#include <memory>
#include <string>

#include "devices/block/foreign/child_process.h"
#include "vmm/core/fd.h"

namespace minivmm {

class QemuNbd {
 public:
  // `image` is open for reading; the child gets this file and none else. `format` is a name of QEMU's: it
  // probes nothing. `what` is for errors: "VMware image /x.vmdk". Throws HostError.
  QemuNbd(int image, const std::string& format, const std::string& what);

  // The connection to it, once.
  UniqueFd take_socket() { return std::move(socket_); }
  int pid() const { return child_->pid(); }
  // Why it does not answer, for an error message.
  std::string reason();

 private:
  UniqueFd socket_;
  std::unique_ptr<ChildProcess> child_;
};

}  // namespace minivmm
