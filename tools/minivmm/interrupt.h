// Ctrl-C, SIGTERM and SIGHUP while files are being worked on: noticed between two steps, so that what was
// begun is left whole or removed.
#pragma once

#include <atomic>
#include <csignal>

namespace minivmm {

// Catches the signals from construction to destruction; one at a time in a process.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  static const std::atomic<bool>& flag();  // true once a signal came
  // What a shell expects of a program that a signal ended: 128 and its number. 0: none came.
  static int exit_status();

 private:
  struct sigaction before_[3]{};
};

}  // namespace minivmm
