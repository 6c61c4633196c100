// Unix stream sockets by path: one side listens, the other connects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm {

inline constexpr size_t kMaxUnixPath = 107;  // bytes: unix(7)

// A listening socket. Its path goes with it, unless somebody else's is there by then.
class UnixListener {
 public:
  UnixListener() = default;
  UnixListener(UnixListener&&) noexcept = default;
  UnixListener& operator=(UnixListener&& other) noexcept;
  ~UnixListener() { remove(); }

  int get() const { return fd_.get(); }

 private:
  friend UnixListener listen_on_unix_socket(const std::string& path, std::string_view clients, int backlog);
  void remove();

  UniqueFd fd_;
  std::string path_;
  uint64_t device_ = 0;  // of what is at the path; the number is ours as long as the socket is open
  uint64_t inode_ = 0;
};

// Listens on `path`. A socket whose owner has died is replaced; anything else there is not touched, and of
// several that try at once one has it. `clients` is for messages: "serial clients". Neither this nor what it
// accepts blocks. Throws HostError.
UnixListener listen_on_unix_socket(const std::string& path, std::string_view clients, int backlog);

// Without waiting, and the socket does not block either. Errc::closed: nobody listens there, or they have
// more to accept than they can hold.
Result<UniqueFd> connect_to_unix_socket(const std::string& path);

}  // namespace minivmm
