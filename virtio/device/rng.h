// The entropy device (virtio 1.2, 5.4): one queue of buffers to fill with the host's random bytes.
#pragma once

#include <deque>
#include <filesystem>
#include <memory>
#include <string>

#include "virtio/queue_runner.h"
#include "virtio/registry.h"
#include "virtio/virtio_device.h"
#include "vmm/core/rate_limiter.h"

namespace minivmm {

class VirtioRng final : public VirtioDevice {
 public:
  struct Options {
    unsigned index = 0;
    uint64_t bytes_per_second = 0;  // 0: no limit
  };
  // Throws HostError when the host has no descriptors left.
  explicit VirtioRng(const Options& options);
  ~VirtioRng() override;

  VirtioTraits traits() const override;
  void read_config(uint32_t, std::span<std::byte>) const override {}  // 5.4.4: there is none
  void write_config(uint32_t, std::span<const std::byte>) override {}
  void ack_features(uint64_t) override {}
  Result<void> start_queue(uint16_t index, Virtqueue&&, QueueContext) override;
  std::optional<Virtqueue> stop_queue(uint16_t index) override;
  void reset() override {}

  std::string_view state_name() const override { return name_; }
  void save(StateWriter&) const override {}  // nothing outlives a request
  Result<void> load(StateReader&) override;

 private:
  Result<void> drain(Virtqueue& queue, const StopFlag& stop, Log& log);
  void serve(Virtqueue& queue, const StopFlag& stop, Log& log);
  void settle(Virtqueue& queue);

  const std::string name_;
  const uint64_t most_;  // bytes of one answer
  RateLimiter limiter_;
  UniqueFd timer_;             // timerfd: when there is credit again; only with a limit
  std::deque<Chain> waiting_;  // for credit; the worker's
  IoVec pieces_;
  std::unique_ptr<QueueRunner> runner_;
};

std::unique_ptr<VirtioDevice> create_virtio_rng(std::string_view spec, const CreateContext&);
std::string example_virtio_rng_spec(const std::filesystem::path& folder);
void check_virtio_rng_spec(std::string_view spec, uint64_t memory);

inline constexpr VirtioDeviceType kVirtioRngType{
    .name = "rng",
    .option = "--rng",
    .metavar = "on|off|rate=SIZE",
    .help = "a source of random numbers for the guest, fed by the host's; rate=: bytes a second at most",
    .repeatable = false,
    .default_spec = "on",
    .create = create_virtio_rng,
    .example_spec = example_virtio_rng_spec,
    .check = check_virtio_rng_spec,
};

}  // namespace minivmm
