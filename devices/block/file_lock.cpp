#include "devices/block/file_lock.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

// 10 + 20 + ... + 320 + 320 ms: a killed program's last commit has ended by then, and who has it in use goes
// on having it.
constexpr int kTries = 8;
constexpr std::chrono::milliseconds kFirstPause{10};
constexpr std::chrono::milliseconds kLongestPause{320};

struct flock whole_file(LockMode mode) {
  struct flock lock{};
  lock.l_type = mode == LockMode::exclusive ? F_WRLCK : F_RDLCK;
  lock.l_whence = SEEK_SET;  // start 0, length 0: to the end, however far it grows
  return lock;
}

}  // namespace

void lock_file(int fd, LockMode mode, const std::string& what) {
  struct flock lock = whole_file(mode);
  // A killed program's files are closed a moment after it is gone: once its last commit is whole
  // (unkillable.h), and io_uring has let go of them.
  std::chrono::milliseconds pause = kFirstPause;
  for (int tries = 0; tries < kTries; ++tries) {
    if (tries != 0) {
      std::this_thread::sleep_for(pause);
      pause = std::min(2 * pause, kLongestPause);
    }
    if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return;
    if (errno != EAGAIN && errno != EACCES) break;
  }
  if (errno != EAGAIN && errno != EACCES) {
    throw_errno(fmt::format("lock the {}", what), "keep it on a file system that has file locks");
  }
  struct flock holder = whole_file(mode);
  std::string by = "another VM or program";
  // The kernel gives -1 for a lock of our own kind, which belongs to no one process.
  if (::fcntl(fd, F_OFD_GETLK, &holder) == 0 && holder.l_type != F_UNLCK && holder.l_pid > 0) {
    by = fmt::format("process {}", holder.l_pid);
  }
  throw HostError(EAGAIN, fmt::format("cannot lock the {}: it is in use by {}; stop that first, or open it "
                                      "with readonly=on in both",
                                      what, by));
}

void unlock_file(int fd) {
  struct flock lock{};
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;
  ::fcntl(fd, F_OFD_SETLK, &lock);  // in vain only for what is no descriptor any more
}

}  // namespace minivmm
