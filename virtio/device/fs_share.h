// What --share says.
#pragma once

#include <string>
#include <string_view>

namespace minivmm {

inline constexpr size_t kMaxShareTag = 36;  // bytes; virtio 1.2, 5.11.4

struct ShareSpec {
  std::string folder;  // of the host
  std::string tag;     // by which the guest mounts it
  bool read_only = false;
};

// "DIR:TAG" or "DIR:TAG:ro"; DIR may have colons of its own. Throws ConfigError; looks at nothing of the
// host.
ShareSpec parse_share_spec(std::string_view text);

}  // namespace minivmm
