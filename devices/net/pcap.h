// A capture of all frames, in both directions, for Wireshark and tcpdump.
#pragma once

#include <memory>
#include <string>

#include "devices/net/net_backend.h"
#include "vmm/core/log.h"

namespace minivmm {

// `path` is created or emptied; only its owner may read it. A full disk ends the capture, with a line in the
// log, and nothing else. Throws HostError if the file cannot be written, or another capture writes it.
std::unique_ptr<NetBackend> capture_net(std::unique_ptr<NetBackend> below, const std::string& path, Log& log);

}  // namespace minivmm
