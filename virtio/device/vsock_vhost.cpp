#include "virtio/device/vsock_vhost.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "virtio/device/vsock_packet.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {

constexpr uint16_t kDataQueueSize = 256;
constexpr uint16_t kEventQueueSize = 64;
constexpr uint16_t kEventQueue = 2;  // 5.10.2: receive, transmit, event

constexpr uint64_t kTried = 4096;  // addresses, before we give up looking for a free one

enum Field : uint16_t { kCid = 1 };

}  // namespace

VirtioVhostVsock::VirtioVhostVsock(UniqueFd vhost, const Options& options, Log& log)
    : options_(options),
      name_(fmt::format("virtio-vsock.{}", options.index)),
      log_(log),
      plane_(std::move(vhost)) {
  for (cid_ = options_.cid.value_or(vsock::kFirstCid);; ++cid_) {
    const auto set = plane_.set_guest_cid(cid_);
    if (set && *set) return;
    if (!set)
      throw HostError(EINVAL,
                      fmt::format("cannot give the guest the vsock address {}: {}", cid_, set.error().what));
    if (options_.cid || cid_ == vsock::kFirstCid + kTried) {
      throw HostError(EADDRINUSE,
                      fmt::format("cannot give the guest the vsock address {}: another guest of this "
                                  "host has it; give another cid=, or none",
                                  cid_));
    }
  }
}

VirtioVhostVsock::~VirtioVhostVsock() {
  if (events_) events_->stop();
}

VirtioTraits VirtioVhostVsock::traits() const {
  return {.type = virtio::kDeviceSocket,
          .name = "virtio-vsock",
          .pci_class = 0x078000,  // a communication device of another kind
          .features = plane_.features() & ~kVhostRingFeatures,
          .queue_sizes = {kDataQueueSize, kDataQueueSize, kEventQueueSize},
          .config_size = sizeof cid_,
          .receive_queues = 1U << 0 | 1U << kEventQueue,
          .unknown = kVhostRingFeatures & ~plane_.features()};
}

void VirtioVhostVsock::read_config(uint32_t offset, std::span<std::byte> out) const {
  std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&cid_) + offset, out.size());
}

Result<void> VirtioVhostVsock::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  if (index != kEventQueue) return plane_.start_queue(index, std::move(queue), context);
  auto runner = QueueRunner::start(
      fmt::format("vsock.{} ev", options_.index), std::move(queue), context, {},
      {.drain = [this](Virtqueue& q, unsigned, const StopFlag&) { return drain_events(q); }});
  if (!runner) return std::unexpected(runner.error());
  events_ = std::move(*runner);
  return {};
}

// 5.10.6.6: buffers wait for something to happen.
Result<void> VirtioVhostVsock::drain_events(Virtqueue& queue) {
  while (moved_) {
    auto popped = queue.pop();
    if (!popped) return std::unexpected(popped.error());
    if (!*popped) return {};
    Chain chain = std::move(**popped);
    uint32_t written = 0;
    if (chain.write(0, std::as_bytes(std::span(&vsock::kEventTransportReset, 1)))) {
      written = sizeof vsock::kEventTransportReset;
      moved_ = false;
    } else {
      log_.guest_fault(name_, "a buffer too small for an event");
    }
    queue.complete(std::move(chain), written);
  }
  return {};
}

std::optional<Virtqueue> VirtioVhostVsock::stop_queue(uint16_t index) {
  if (index != kEventQueue) return plane_.stop_queue(index);
  if (!events_) return std::nullopt;
  Virtqueue queue = events_->stop();
  events_.reset();
  return queue;
}

void VirtioVhostVsock::save(StateWriter& out) const {
  out.field(kCid, cid_);
}

Result<void> VirtioVhostVsock::load(StateReader& in) {
  const auto cid = in.need<uint64_t>(kCid);
  if (!cid) return std::unexpected(cid.error());
  if (auto finished = in.finish(); !finished) return finished;
  if (*cid < vsock::kFirstCid || *cid > vsock::kLastCid)
    return fail(Errc::corrupt, "a saved vsock address that no guest has");
  if (!options_.cid && *cid != cid_) {
    const auto set = plane_.set_guest_cid(*cid);
    if (!set || !*set) return fail(Errc::invalid, "the saved vsock address is another guest's on this host");
    cid_ = *cid;
  }
  moved_ = true;
  return {};
}

}  // namespace minivmm
