// A thread that takes none of the program's signals.
#pragma once

#include <pthread.h>

#include <csignal>
#include <exception>
#include <thread>
#include <utility>

namespace minivmm {

// `name`: 15 characters are kept. Throws std::system_error: the host has no thread left.
template <class Work>
std::thread start_quiet_thread(const char* name, Work work) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited
  std::thread thread;
  std::exception_ptr failure;
  try {
    thread = std::thread(std::move(work));
    pthread_setname_np(thread.native_handle(), name);
  } catch (...) {
    failure = std::current_exception();
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (failure) std::rethrow_exception(failure);
  return thread;
}

}  // namespace minivmm
