// That no two running machines of a user are the same one to their guests' networks.
#pragma once

#include <filesystem>
#include <string>
#include <utility>

#include "vmm/core/fd.h"
#include "vmm/machine/config.h"

namespace minivmm {

// What a running machine holds of the identity that is derived for it (identity.h): a locked file in the run
// folder, gone with the claim. The lock ends with its process, however that does.
class IdentityClaim {
 public:
  IdentityClaim() = default;
  IdentityClaim(IdentityClaim&& other) noexcept
      : lock_(std::move(other.lock_)),
        path_(std::exchange(other.path_, {})),
        notice_(std::exchange(other.notice_, {})) {}
  IdentityClaim& operator=(IdentityClaim&&) = delete;
  ~IdentityClaim();

  // One line for a person where another machine is in the way; empty: none is.
  const std::string& notice() const { return notice_; }

 private:
  friend IdentityClaim claim_identity(MachineConfig& config);

  UniqueFd lock_;
  std::filesystem::path path_;
  std::string notice_;
};

// Before Machine::create(), for as long as the machine lives. One without a name, beside running ones that go
// by the same file, gets the next identity of that file (MachineConfig::instance): the second one's is always
// the same, and so on. One with a name keeps what it has. Where the user gives the UUID and every MAC
// address, or the host has no folder for it, nothing is claimed. Throws ConfigError for a --net or --disk
// that makes no sense.
IdentityClaim claim_identity(MachineConfig& config);

}  // namespace minivmm
