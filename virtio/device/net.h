// The network device (virtio 1.2, 5.1): a card on a NetBackend, with one or more pairs of queues. RSS and
// hash reports (5.1.6.5.6, 5.1.6.4.3) are not offered: back ends that have several queues steer by
// themselves.
#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "devices/net/open_net.h"
#include "virtio/device/net_config_signal.h"
#include "virtio/device/net_control.h"
#include "virtio/device/net_pair.h"
#include "virtio/device/net_settings.h"
#include "virtio/queue_runner.h"
#include "virtio/registry.h"
#include "virtio/vhost/data_plane.h"
#include "virtio/virtio_device.h"

namespace minivmm {

class VirtioNet final : public VirtioDevice {
 public:
  struct Options {
    unsigned index = 0;
    MacAddress mac;
    uint32_t speed = 0;  // Mbit/s, told to the guest; 0: what the back end says
  };
  // Throws HostError where somebody else is to move the frames (NetBackend::vhost()), and cannot.
  VirtioNet(std::unique_ptr<NetBackend> net, const Options& options, Log& log);
  ~VirtioNet() override;

  NetBackend& backend() { return *net_; }

  // Has the guest tell its neighbours where it is now (5.1.6.5.4), if its driver can: after the card has
  // moved to another place in the network. A loaded state does so by itself. On any thread.
  void announce();

  VirtioTraits traits() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  void write_config(uint32_t, std::span<const std::byte>) override {}  // read-only for drivers of today
  void ack_features(uint64_t features) override;
  Result<void> start_queue(uint16_t index, Virtqueue&&, QueueContext) override;
  std::optional<Virtqueue> stop_queue(uint16_t index) override;
  void reset() override;

  std::string_view state_name() const override { return name_; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  enum class Role : uint8_t { receive, transmit, elsewhere, control, none };
  uint64_t offered() const;
  bool agreed(unsigned feature) const { return (acked_ & virtio::feature_bit(feature)) != 0; }
  uint16_t pairs_usable() const;
  Role role(uint16_t index) const;
  Result<void> start_control(Virtqueue&& queue, QueueContext context);
  Result<void> drain_control(Virtqueue& queue, const StopFlag& stop);
  net::Ack run_control(const Chain& chain);
  Result<void> apply(const net::ControlState& state);
  void begin();
  void start_announcing();

  std::unique_ptr<NetBackend> net_;
  NetTraits net_traits_;  // the same once it is made
  Options options_;
  std::string name_;
  Log& log_;
  NetSettingsBoard board_;

  // The transport's calls and the control queue's worker meet here. Not held while a worker is joined.
  mutable std::mutex mutex_;
  uint64_t acked_ = 0;
  net::ControlState state_;
  bool announce_later_ = false;  // once a queue runs

  std::unique_ptr<DataPlane> plane_;  // moves the frames instead of pairs_; null: they do

  // Only the transport's calls touch these.
  std::vector<std::unique_ptr<NetPair>> pairs_;
  std::unique_ptr<QueueRunner> control_;
  std::vector<std::optional<Virtqueue>> idle_;  // started, but of no use with the features negotiated
  unsigned running_ = 0;

  NetConfigSignal signal_;
};

std::unique_ptr<VirtioDevice> create_virtio_net(std::string_view spec, const CreateContext&);
std::string example_virtio_net_spec(const std::filesystem::path& folder);

inline constexpr VirtioDeviceType kVirtioNetType{
    .name = "net",
    .option = "--net",
    .metavar = kNetSpecMetavar,
    .help = "a network card, repeatable",
    .repeatable = true,
    .default_spec = kDefaultNetSpec,
    .create = create_virtio_net,
    .example_spec = example_virtio_net_spec,
    .absent_spec = kNoNet,
    .default_missing = default_net_missing,
    .full_help = net_help,
    .shares_memory = net_shares_memory,
};

}  // namespace minivmm
