#include "vmm/machine/identity_claim.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "devices/net/open_net.h"
#include "vmm/core/error.h"
#include "vmm/core/run_folder.h"
#include "vmm/core/stable_uuid.h"

namespace minivmm {

namespace {

constexpr uint32_t kMostInstances = 4096;  // of one file; there is no end to a loop otherwise

bool derives_something(const MachineConfig& config) {
  return !config.uuid || std::ranges::any_of(config.virtio, [](const VirtioConfig& device) {
    if (device.type != "net") return false;
    const NetSpec spec = parse_net_spec(device.spec);
    return spec.backend != kNoNet && !spec.mac;
  });
}

bool is_still_there(int fd, const std::filesystem::path& path) {
  struct stat of_fd{};
  struct stat of_path{};
  return ::fstat(fd, &of_fd) == 0 && ::lstat(path.c_str(), &of_path) == 0 && of_fd.st_ino == of_path.st_ino &&
         of_fd.st_dev == of_path.st_dev;
}

// nullopt: another machine holds it.
std::optional<UniqueFd> try_lock(const std::filesystem::path& path) {
  for (;;) {
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    const bool locked = fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0;
    if (!locked && errno == EWOULDBLOCK) return std::nullopt;
    if (!locked) throw_errno(fmt::format("lock {}", path.string()));
    // Who had it may have removed it after we opened it: then the lock is one on nothing.
    if (is_still_there(fd.get(), path)) return fd;
  }
}

std::filesystem::path lock_path(const MachineConfig& config) {
  return run_folder() / fmt::format("machine-{}", uuid_text(stable_uuid("lock/" + machine_identity(config))));
}

}  // namespace

IdentityClaim::~IdentityClaim() {
  // Removed while it is still locked: who opened it before sees that it is gone.
  if (lock_) ::unlink(path_.c_str());
}

IdentityClaim claim_identity(MachineConfig& config) {
  IdentityClaim claim;
  if (!derives_something(config)) return claim;
  const bool named = !config.name.empty();
  try {
    do {
      claim.path_ = lock_path(config);
      if (auto lock = try_lock(claim.path_)) {
        claim.lock_ = std::move(*lock);
        break;
      }
    } while (!named && ++config.instance < kMostInstances);
  } catch (const ConfigError&) {
    throw;
  } catch (const HostError&) {
    // A machine alone on its host needs none of this, and has to start.
    config.instance = 1;
    return claim;
  }
  if (named && !claim.lock_) {
    claim.notice_ = fmt::format(
        "another running machine is named {}: both have the same UUID and MAC addresses; give each a --name "
        "of its own",
        config.name);
  } else if (config.instance > 1) {
    claim.notice_ = fmt::format(
        "{} is what another running machine goes by: this one gets a UUID and MAC addresses as number {} of "
        "them; --name gives it ones that stay",
        machine_file(config), config.instance);
  }
  return claim;
}

}  // namespace minivmm
