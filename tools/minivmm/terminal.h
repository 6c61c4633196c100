// The person's terminal: raw while the guest's console is on it, and back as it was however we end.
#pragma once

#include <termios.h>

namespace minivmm {

// Raw mode on `fd` from construction to destruction. Also restored, by async-signal-safe means, when the
// process ends by a fatal signal or abort(); only SIGKILL is beyond us. One at a time in a process. Not a
// terminal: does nothing.
class RawTerminal {
 public:
  explicit RawTerminal(int fd);
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

 private:
  int fd_;
  bool active_ = false;
};

}  // namespace minivmm
