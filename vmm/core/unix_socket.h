// Unix stream sockets by path: one side listens, the other connects.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm {

inline constexpr size_t kMaxUnixPath = 107;  // bytes: unix(7)

// Listens on `path`. A socket whose owner has died is replaced; anything else there is not touched. `clients`
// is for messages: "serial clients". Neither this nor what it accepts blocks. Throws HostError.
UniqueFd listen_on_unix_socket(const std::string& path, std::string_view clients, int backlog);

// Without waiting, and the socket does not block either. Errc::closed: nobody listens there, or they have
// more to accept than they can hold.
Result<UniqueFd> connect_to_unix_socket(const std::string& path);

}  // namespace minivmm
