#include "virtio/device/vsock_events.h"

#include <span>
#include <utility>

#include "virtio/device/vsock_packet.h"

namespace minivmm {

Result<void> VsockEvents::drain(Virtqueue& queue, std::string_view name, Log& log) {
  // Ends: more than the queue's size in flight is an error of pop()'s. Buffers that are too small go back,
  // but no more of them in one go than the queue holds.
  for (unsigned taken = 0; taken < queue.size(); ++taken) {
    auto popped = queue.pop();
    if (!popped) return std::unexpected(popped.error());
    if (!*popped) break;
    waiting_.push_back(std::move(**popped));
  }
  while (moved_ && !waiting_.empty()) {
    Chain chain = std::move(waiting_.front());
    waiting_.pop_front();
    uint32_t written = 0;
    if (chain.write(0, std::as_bytes(std::span(&vsock::kEventTransportReset, 1)))) {
      written = sizeof vsock::kEventTransportReset;
      moved_ = false;
    } else {
      log.guest_fault(name, "a buffer too small for an event");
    }
    queue.complete(std::move(chain), written);
  }
  return {};
}

void VsockEvents::settle(Virtqueue& queue) {
  for (; !waiting_.empty(); waiting_.pop_front()) queue.give_back(std::move(waiting_.front()));
}

}  // namespace minivmm
