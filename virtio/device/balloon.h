// The balloon (virtio 1.2, 5.5): takes memory from a running guest and gives it back, hands the host what the
// guest has free, and tells how the guest fares for memory.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "virtio/device/balloon_pages.h"
#include "virtio/device_thread.h"
#include "virtio/registry.h"
#include "virtio/served_queue.h"
#include "virtio/virtio_device.h"
#include "vmm/core/balloon_stats.h"

namespace minivmm {

class VirtioBalloon final : public VirtioDevice {
 public:
  struct Options {
    unsigned index = 0;
    uint64_t size = 0;  // bytes to take from the guest at first
    bool deflate_on_oom = true;
    bool reporting = true;  // of free pages
  };
  // `log` outlives it. Throws HostError.
  VirtioBalloon(const Options& options, Log& log);
  ~VirtioBalloon() override;

  // Asks the guest for its figures and waits for them, `patience` at most; then the newest there are. Any
  // thread but the device's own.
  BalloonStats stats(std::chrono::milliseconds patience);

  VirtioTraits traits() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  void write_config(uint32_t offset, std::span<const std::byte> in) override;
  void ack_features(uint64_t features) override { acked_ = features; }
  Result<void> start_queue(uint16_t index, Virtqueue&&, QueueContext) override;
  std::optional<Virtqueue> stop_queue(uint16_t index) override;
  // The balloon's size: how much the guest is asked to give.
  Result<bool> resize(std::optional<uint64_t> bytes) override;
  void reset() override;

  std::string_view state_name() const override { return name_; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  bool work();
  bool take_pages(uint16_t index);
  bool take_reports(uint16_t index);
  void take_statistics();
  void parse_statistics(const Chain& chain);
  void note(const BalloonPages::Outcome& outcome);

  const Options options_;
  const std::string name_;
  Log& log_;

  // Written by vCPU threads through the configuration space, and by resize().
  std::atomic<uint32_t> target_;     // pages
  std::atomic<uint32_t> actual_{0};  // that the guest says it has given
  std::atomic<uint32_t> most_{0};    // the largest of those
  std::atomic<uint32_t> poison_{0};  // what free pages are filled with
  std::atomic<uint64_t> acked_{0};

  DeviceThread thread_;
  std::vector<ServedQueue> queues_;    // this and the rest: under the thread's lock
  std::optional<BalloonPages> pages_;  // once a queue has run
  std::optional<Chain> statistics_;    // the guest's buffer, until it is asked for new ones
  std::vector<uint32_t> batch_;

  mutable std::mutex stats_mutex_;  // taken with or without the lock above, and no other inside it
  std::condition_variable stats_came_;
  BalloonStats stats_;
  uint64_t stats_count_ = 0;
  bool handed_over_ = false;  // the driver has given a buffer since the last reset
};

std::unique_ptr<VirtioDevice> create_virtio_balloon(std::string_view spec, const CreateContext&);
std::string example_virtio_balloon_spec(const std::filesystem::path& folder);
void check_virtio_balloon_spec(std::string_view spec, uint64_t memory);

inline constexpr VirtioDeviceType kVirtioBalloonType{
    .name = "balloon",
    .option = "--balloon",
    .metavar = "on|size=SIZE[,key=value...]",
    .help =
        "takes memory from the running guest, and gives the host what the guest has free; settings: size=, "
        "reporting=off, deflate-on-oom=off",
    .repeatable = false,
    .default_spec = "",
    .create = create_virtio_balloon,
    .example_spec = example_virtio_balloon_spec,
    .check = check_virtio_balloon_spec,
};

}  // namespace minivmm
