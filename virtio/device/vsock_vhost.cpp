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
  if (event_runner_) event_runner_->stop();
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
      {.drain = [this](Virtqueue& q, unsigned, const StopFlag&) { return events_.drain(q, name_, log_); },
       .settle = [this](Virtqueue& q, const StopFlag&) { events_.settle(q); }});
  if (!runner) return std::unexpected(runner.error());
  event_runner_ = std::move(*runner);
  return {};
}

std::optional<Virtqueue> VirtioVhostVsock::stop_queue(uint16_t index) {
  if (index != kEventQueue) return plane_.stop_queue(index);
  if (!event_runner_) return std::nullopt;
  Virtqueue queue = event_runner_->stop();
  event_runner_.reset();
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
  events_.set_moved(true);
  return {};
}

}  // namespace minivmm
