#include "devices/net/internal/segment.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

#include "vmm/core/error.h"
#include "vmm/core/run_folder.h"

namespace minivmm {

namespace {

constexpr std::string_view kSuffix = ".member";
constexpr std::chrono::seconds kLockLimit{5};

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
         c == '.';
}

// A path through the open folder: sun_path holds 107 bytes, and a user's runtime folder can be longer.
sockaddr_un address_of(const UniqueFd& folder, const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}/{}", folder.get(), name);
  MV_CHECK(path.size() < sizeof address.sun_path);
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

UniqueFd new_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) throw_errno("open a socket for the private network");
  return fd;
}

std::string random_name() {
  uint64_t number = 0;
  while (::getrandom(&number, sizeof number, 0) != sizeof number) {
  }
  return fmt::format("{}-{:016x}{}", ::getpid(), number, kSuffix);
}

std::vector<std::string> member_names(const UniqueFd& folder) {
  std::vector<std::string> names;
  UniqueFd opened(::openat(folder.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::unique_ptr<DIR, int (*)(DIR*)> list(opened ? ::fdopendir(opened.get()) : nullptr, ::closedir);
  if (list) opened.release();  // closedir()'s now
  if (!list) throw_errno("list the members of the private network");
  while (const dirent* entry = ::readdir(list.get())) {  // NOLINT(concurrency-mt-unsafe): a stream of our own
    const std::string_view name = entry->d_name;
    if (name.ends_with(kSuffix) && name.size() < 64) names.emplace_back(name);
  }
  return names;
}

void make_folder(const std::filesystem::path& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    throw_errno(fmt::format("make the folder {}", path.string()));
}

}  // namespace

bool is_segment_name(std::string_view name) {
  return !name.empty() && name.size() <= 32 && name[0] != '.' && std::ranges::all_of(name, is_word);
}

std::filesystem::path segments_folder() {
  std::filesystem::path folder = run_folder() / "net";
  make_folder(folder);
  return folder;
}

Membership::Membership(const std::filesystem::path& parent, std::string_view name) : path_(parent / name) {
  const auto deadline = std::chrono::steady_clock::now() + kLockLimit;
  while (!open_folder()) {
    if (std::chrono::steady_clock::now() >= deadline) {
      throw HostError(EBUSY, fmt::format("cannot join the private network: another process has {} locked",
                                         path_.string()));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  // Locked: nobody else comes meanwhile, so that each pair of members connects exactly once, the later to the
  // earlier, and a socket that refuses is a dead one's.
  meet();
  bind_own();
  ::flock(folder_.get(), LOCK_UN);
}

// True: it is there, and locked.
bool Membership::open_folder() {
  make_folder(path_);
  folder_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!folder_) {
    if (errno == ENOENT) return false;  // its last member has just left
    throw_errno(fmt::format("open the folder {}", path_.string()));
  }
  struct stat status{};
  if (::flock(folder_.get(), LOCK_EX | LOCK_NB) != 0 || ::fstat(folder_.get(), &status) != 0) return false;
  return status.st_nlink != 0;  // 0: removed before it was locked
}

void Membership::meet() {
  for (const std::string& name : member_names(folder_)) {
    UniqueFd peer = new_socket();
    const sockaddr_un address = address_of(folder_, name);
    if (::connect(peer.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      if (peers_.size() + 1 == kMaxMembers) {
        throw HostError(EMFILE, fmt::format("cannot join the private network {}: it has {} members",
                                            path_.string(), kMaxMembers));
      }
      peers_.push_back(std::move(peer));
    } else if (errno == ECONNREFUSED) {
      ::unlinkat(folder_.get(), name.c_str(), 0);
    }
  }
}

void Membership::bind_own() {
  UniqueFd listener = new_socket();
  const std::string name = random_name();
  const sockaddr_un address = address_of(folder_, name);
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), kMaxMembers) != 0) {
    throw_errno(fmt::format("join the private network in {}", path_.string()));
  }
  own_ = name;
  listener_ = std::move(listener);
}

Membership::~Membership() {
  // Fails when others are there, or a newcomer has it open: it finds that out (st_nlink).
  if (!own_.empty()) ::unlinkat(folder_.get(), own_.c_str(), 0);
  ::rmdir(path_.c_str());
}

}  // namespace minivmm
