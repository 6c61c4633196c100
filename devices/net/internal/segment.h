// Where the members of a private segment find each other: a folder of Unix sockets. docs/networking.md has
// the rules.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/core/fd.h"

namespace minivmm {

inline constexpr size_t kMaxMembers = 256;

// 1 to 32 letters, digits, '-', '_' and '.', not beginning with a dot.
bool is_segment_name(std::string_view name);

// This user's folder for segments: below $XDG_RUNTIME_DIR, or /run (root) or /tmp. Throws HostError when it
// is not safe: not a folder of this user's alone.
std::filesystem::path segments_folder();

class Membership {
 public:
  // Makes the folder `parent`/`name` if it is not there, removes what dead members left in it, and connects
  // to the living ones. Throws HostError.
  Membership(const std::filesystem::path& parent, std::string_view name);
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;
  ~Membership();

  int listener() const { return listener_.get(); }  // non-blocking, SOCK_SEQPACKET
  // Connections to those who were there before, non-blocking. Once.
  std::vector<UniqueFd> take_peers() { return std::move(peers_); }

 private:
  bool open_folder();
  void meet();
  void bind_own();

  std::filesystem::path path_;
  UniqueFd folder_;
  std::string own_;  // the name of our socket there
  UniqueFd listener_;
  std::vector<UniqueFd> peers_;
};

}  // namespace minivmm
