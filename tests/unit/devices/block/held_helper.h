// A child process whose helper (unkillable.h) is stopped at each of its system calls, so that the child can
// be killed at any one of them. seccomp_unotify(2) tells us of the calls, and lets them go on.
#pragma once

#include <functional>
#include <string>

namespace minivmm::test {

struct HeldHelper {
  std::string unsupported;  // why this host cannot do it
  unsigned calls = 0;       // pwrite64 and fdatasync, by helpers
  unsigned after = 0;       // of these, since the kill
  bool killed = false;
};

// Runs `work` in a child, and kills that (SIGKILL) when a helper of it is about to make its call number `at`,
// from 1; then `killed` is called, with the helper still there and waiting. Returns when child and helpers
// are gone. The process must have no other threads.
HeldHelper kill_at_call(unsigned at, const std::function<void()>& work, const std::function<void()>& killed);

}  // namespace minivmm::test
