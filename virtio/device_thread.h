// One thread for all queues and descriptors of a device, where one for each would be waste: a device whose
// queues belong together, and which never waits for its host. All the device's state is behind one lock.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm {

class DeviceThread {
 public:
  // Both are called on the thread with the lock held, and may not throw or wait.
  struct Hooks {
    // A watched descriptor is ready: epoll(7)'s events. A descriptor that was forgotten meanwhile may still
    // be reported once, so a tag of something that can go away is never used again.
    std::function<void(uint64_t tag, uint32_t events)> ready;
    // After each batch of events and each wake(). True: there is more to do, but others may want the lock
    // first; it is called again without sleeping.
    std::function<bool()> work;
  };

  // Starts nothing yet. Throws HostError when the host has no descriptors left.
  DeviceThread(const std::string& name, Hooks hooks);
  DeviceThread(const DeviceThread&) = delete;
  DeviceThread& operator=(const DeviceThread&) = delete;
  ~DeviceThread() { stop(); }

  // The thread runs from here on; idempotent. `name`'s first 15 characters are the thread's. Errc::io when
  // the host has no more threads.
  Result<void> start();
  // Joins it; not from the thread. What the hooks use has to be there until then.
  void stop();

  // The device's lock, for every other thread. The thread gives way to whoever waits for it, so that none
  // waits longer than for one batch, however busy a guest keeps it.
  class Lock {
   public:
    explicit Lock(DeviceThread& thread);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    DeviceThread& thread_;
  };

  void wake() const { wake_.signal(); }  // have work() called; any thread

  // epoll_ctl(2), with the events as given; the thread need not run yet.
  Result<void> watch(int fd, uint32_t events, uint64_t tag);
  void forget(int fd);

 private:
  void run();

  const std::string name_;
  const Hooks hooks_;
  UniqueFd epoll_;
  EventFd wake_;
  std::mutex mutex_;
  std::atomic<uint32_t> waiting_{0};  // for the lock, or having it
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace minivmm
