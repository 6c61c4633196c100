// Where sockets of running machines are, that nobody has said another place for.
#pragma once

#include <filesystem>

namespace minivmm {

// $XDG_RUNTIME_DIR/minivmm; without that variable /run/minivmm for root, and /tmp/minivmm-UID for others.
// Made where it is not there, for this user alone; throws HostError when it cannot be, or belongs to somebody
// else.
std::filesystem::path run_folder();

}  // namespace minivmm
