// Files of the host that are read whole when a machine is made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace minivmm {

// Reads `path` until its end, for it may be a pipe: --ignition <(butane config.bu). `role` is what the file
// is to be ("Ignition config"), `limit_of` whom the limit is owed to ("fw_cfg publishes in one file"). Throws
// HostError where it cannot be read, ConfigError where it is larger than `most` bytes.
std::vector<std::byte> read_file(const std::string& path, std::string_view role, uint64_t most,
                                 std::string_view limit_of);

}  // namespace minivmm
