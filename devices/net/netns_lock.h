// A lock among all processes of one network namespace, which the kernel drops with its owner however that
// ends: a Unix socket bound to a name in the abstract namespace (unix(7)), of which each network namespace
// has its own.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>

#include "vmm/core/fd.h"

namespace minivmm {

// Held for as long as the descriptor is open. nullopt: another one holds it.
std::optional<UniqueFd> try_netns_lock(std::string_view name);

// Throws HostError when it is not free within `limit`.
UniqueFd take_netns_lock(std::string_view name, std::chrono::milliseconds limit = std::chrono::seconds(5));

}  // namespace minivmm
