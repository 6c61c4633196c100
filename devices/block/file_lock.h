// Keeps two machines from writing one image: open-file-description locks (fcntl(2), F_OFD_SETLK), which the
// kernel drops with the last descriptor, however the process ends.
#pragma once

#include <cstdint>
#include <string>

namespace minivmm {

enum class LockMode : uint8_t {
  shared,     // readers: any number of them, and no writer
  exclusive,  // a writer: alone
};

// Locks the whole file; waits for up to a second where it is locked, for that may be what a killed process
// has left running (unkillable.h). `what` names it in the error ("disk image /x.img"). Throws HostError,
// which says by whom it is locked if the kernel knows.
void lock_file(int fd, LockMode mode, const std::string& what);
// For whoever comes next, at once.
void unlock_file(int fd);

}  // namespace minivmm
