// Passes on what data planes outside this process signal: their interrupts that cannot go straight to the
// guest, while the vector is masked or there is none, and over MMIO, where a status bit has to be set first;
// and their errors. An eventfd that is bound to KVM's irqfd as well wakes nobody here: the kernel takes its
// signal first (Linux 5.11; before, the guest is interrupted twice).
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm {

// Thread-safe. Has a thread from the first add() on.
class CallRelay {
 public:
  CallRelay() = default;
  CallRelay(const CallRelay&) = delete;
  CallRelay& operator=(const CallRelay&) = delete;
  ~CallRelay();

  // `pass_on` is called on the thread, with a lock held that add() and remove() take. `call` stays open until
  // it is removed. Errc::io: the host has no thread or descriptor left.
  Result<void> add(const EventFd& call, std::function<void()> pass_on);
  // Passes on what is still there; when it returns no more comes of it.
  void remove(const EventFd& call);

 private:
  struct Entry {
    const EventFd* call;
    std::function<void()> pass_on;
  };
  Result<void> start();
  void run();

  std::mutex mutex_;
  std::vector<Entry> entries_;
  UniqueFd epoll_;
  UniqueFd stop_;
  std::thread thread_;
};

}  // namespace minivmm
