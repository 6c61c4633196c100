// An attempt to connect, on a thread of its own: looking up a host's name blocks, and those who wait for the
// server must be able to give up meanwhile.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "devices/block/nbd/connection.h"
#include "vmm/core/fd.h"

namespace minivmm::nbd {

class Reconnect {
 public:
  // `wake` is signalled when done(). Throws HostError, std::system_error: no descriptor or thread left.
  Reconnect(std::shared_ptr<const Library> library, const Endpoint& endpoint, std::chrono::milliseconds limit,
            const EventFd& wake);
  ~Reconnect();  // cancels; waits for a name's look-up to end
  Reconnect(const Reconnect&) = delete;
  Reconnect& operator=(const Reconnect&) = delete;

  bool done() const { return done_.load(std::memory_order_acquire); }
  std::unique_ptr<Connection> take() { return std::move(connection_); }  // when done(); null: it failed

 private:
  EventFd cancel_;
  std::unique_ptr<Connection> connection_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace minivmm::nbd
