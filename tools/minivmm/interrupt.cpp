#include "interrupt.h"

#include <array>

namespace minivmm {

namespace {

constexpr std::array kSignals{SIGINT, SIGTERM, SIGHUP};
std::atomic<bool> interrupted{false};
std::atomic<int> by_signal{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

void on_signal(int number) {
  by_signal = number;
  interrupted = true;
}

}  // namespace

Interrupt::Interrupt() {
  by_signal = 0;
  interrupted = false;
  struct sigaction action{};
  action.sa_handler = on_signal;
  // A second Ctrl-C ends the program at once.
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  for (size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &action, &before_[i]);
}

Interrupt::~Interrupt() {
  for (size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
}

const std::atomic<bool>& Interrupt::flag() {
  return interrupted;
}

int Interrupt::exit_status() {
  return by_signal == 0 ? 0 : 128 + by_signal;
}

}  // namespace minivmm
