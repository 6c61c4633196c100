#include "devices/block/nbd/reconnect.h"

#include "vmm/core/quiet_thread.h"

namespace minivmm::nbd {

Reconnect::Reconnect(std::shared_ptr<const Library> library, const Endpoint& endpoint,
                     std::chrono::milliseconds limit, const EventFd& wake) {
  const auto deadline = Clock::now() + limit;
  thread_ =
      start_quiet_thread("nbd-connect", [this, library = std::move(library), endpoint, deadline, &wake] {
        std::string why;  // nobody to tell: the requests that fail say that the server is gone
        connection_ = Connection::open(library, endpoint, deadline, &cancel_, why);
        done_.store(true, std::memory_order_release);  // pairs with the acquire in done()
        wake.signal();
      });
}

Reconnect::~Reconnect() {
  cancel_.signal();
  thread_.join();
}

}  // namespace minivmm::nbd
