// Public keys for --ssh-key, in the form of sshd(8), "AUTHORIZED_KEYS FILE FORMAT".
#pragma once

#include <string>
#include <vector>

namespace minivmm {

// The keys in a file such as id_ed25519.pub or authorized_keys, one a line, without comments. Throws
// HostError where it cannot be read, ConfigError where it holds none, or something else: a private key, say.
std::vector<std::string> read_ssh_keys(const std::string& path);

}  // namespace minivmm
