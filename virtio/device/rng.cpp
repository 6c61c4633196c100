#include "virtio/device/rng.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "vmm/core/state.h"

namespace minivmm {

namespace {

constexpr uint16_t kQueueSize = 64;
// Of a request, however large its buffers: the driver copes with less than it asked for (5.4.6.1: one byte or
// more), and a stop does not wait for long.
constexpr uint64_t kMaxBytes = 65536;

// How many bytes were filled, from the start.
uint32_t fill(const IoVec& pieces) {
  uint64_t filled = 0;
  for (const iovec& piece : pieces) {
    size_t done = 0;
    while (done < piece.iov_len) {
      const ssize_t got =
          ::getrandom(static_cast<std::byte*>(piece.iov_base) + done, piece.iov_len - done, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return static_cast<uint32_t>(filled);
      done += static_cast<size_t>(got);
      filled += static_cast<uint64_t>(got);
    }
  }
  return static_cast<uint32_t>(filled);
}

Result<void> serve(Virtqueue& queue, const StopFlag& stop, std::string_view name, Log& log) {
  IoVec pieces;
  // Leaves off after one queue's worth, so that the guest sees what is done.
  for (unsigned served = 0; served < queue.size() && !stop.requested(); ++served) {
    auto popped = queue.pop();
    if (!popped) return std::unexpected(popped.error());
    if (!*popped) return {};
    Chain chain = std::move(**popped);
    if (chain.writable_bytes() == 0) log.guest_fault(name, "a request for random bytes without a buffer");
    pieces.clear();
    uint32_t filled = 0;
    if (chain.writable_slices(0, std::min(chain.writable_bytes(), kMaxBytes), pieces)) filled = fill(pieces);
    queue.complete(std::move(chain), filled);
  }
  return {};
}

}  // namespace

VirtioRng::VirtioRng(const CreateContext& context) : name_(fmt::format("virtio-rng.{}", context.index)) {}
VirtioRng::~VirtioRng() = default;

VirtioTraits VirtioRng::traits() const {
  return {.type = virtio::kDeviceEntropy,
          .name = "virtio-rng",
          .pci_class = 0x00ff00,  // what does not fit any class
          .features = 0,
          .queue_sizes = {kQueueSize},
          .config_size = 0};
}

Result<void> VirtioRng::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  MV_CHECK(index == 0 && !runner_);
  auto runner = QueueRunner::start(
      fmt::format("{} q0", name_.substr(7)), std::move(queue), context, {},
      {.drain = [this, &log = context.log](Virtqueue& q, unsigned /*which*/, const StopFlag& stop) {
        return serve(q, stop, name_, log);
      }});
  if (!runner) return std::unexpected(runner.error());
  runner_ = std::move(*runner);
  return {};
}

std::optional<Virtqueue> VirtioRng::stop_queue(uint16_t /*index*/) {
  if (!runner_) return std::nullopt;
  Virtqueue queue = runner_->stop();
  runner_.reset();
  return queue;
}

Result<void> VirtioRng::load(StateReader& in) {
  return in.finish();
}

std::unique_ptr<VirtioDevice> create_virtio_rng(std::string_view spec, const CreateContext& context) {
  if (spec == "off") return nullptr;
  if (spec != "on") throw ConfigError(fmt::format("--rng {}: neither on nor off", spec));
  return std::make_unique<VirtioRng>(context);
}

std::string example_virtio_rng_spec(const std::filesystem::path& /*folder*/) {
  return "on";
}

}  // namespace minivmm
