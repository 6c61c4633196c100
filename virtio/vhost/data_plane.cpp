#include "virtio/vhost/data_plane.h"

#include <utility>

namespace minivmm {

Result<std::unique_ptr<RemoteRing>> RemoteRing::create(Virtqueue&& queue, QueueContext context) {
  const auto next_avail = queue.hand_over_index();
  if (!next_avail) return std::unexpected(next_avail.error());
  try {
    auto ring = std::make_unique<RemoteRing>(std::move(queue), context, *next_avail);
    if (auto routed = context.signals.set_calls(context.index, &ring->calls); !routed)
      return std::unexpected(routed.error());
    return ring;
  } catch (const HostError&) {  // may run on a vCPU's thread, where nothing may be thrown
    return fail(Errc::io, "cannot hand a queue over: the host has no more descriptors");
  }
}

RemoteRing::~RemoteRing() {
  [[maybe_unused]] const auto routed = context.signals.set_calls(context.index, nullptr);
}

}  // namespace minivmm
