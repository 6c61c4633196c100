#include "terminal.h"

#include <unistd.h>

#include <array>
#include <csignal>

namespace minivmm {

namespace {

// The executable may have globals (the library may not): a signal handler can reach nothing else.
termios saved_settings;
int saved_fd = -1;

constexpr std::array kFatal{SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGHUP, SIGQUIT};

void restore_and_die(int signal) {
  if (saved_fd >= 0) ::tcsetattr(saved_fd, TCSANOW, &saved_settings);
  ::raise(signal);  // SA_RESETHAND put the default action back
}

}  // namespace

RawTerminal::RawTerminal(int fd) : fd_(fd) {
  if (::isatty(fd) == 0 || ::tcgetattr(fd, &saved_settings) != 0) return;
  saved_fd = fd;
  for (const int signal : kFatal) {
    struct sigaction action{};
    action.sa_handler = restore_and_die;
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
    ::sigaction(signal, &action, nullptr);
  }
  termios raw = saved_settings;
  ::cfmakeraw(&raw);
  active_ = ::tcsetattr(fd, TCSANOW, &raw) == 0;
}

RawTerminal::~RawTerminal() {
  if (!active_) return;
  ::tcsetattr(fd_, TCSADRAIN, &saved_settings);
  saved_fd = -1;
  for (const int signal : kFatal) ::signal(signal, SIG_DFL);
}

}  // namespace minivmm
