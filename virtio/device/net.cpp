#include "virtio/device/net.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "virtio/device/net_offloads.h"
#include "virtio/device/net_plane.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {

using virtio::feature_bit;

constexpr uint16_t kQueueSize = 512;
constexpr uint16_t kControlQueueSize = 64;

enum Field : uint16_t { kMaxPairs = 1, kMac = 2, kControl = 3 };

constexpr uint64_t kAlways = feature_bit(net::kFeatureMac) | feature_bit(net::kFeatureMrgRxbuf) |
                             feature_bit(net::kFeatureStatus) | feature_bit(net::kFeatureCtrlVq) |
                             feature_bit(net::kFeatureCtrlRx) | feature_bit(net::kFeatureCtrlRxExtra) |
                             feature_bit(net::kFeatureCtrlVlan) | feature_bit(net::kFeatureCtrlMacAddr) |
                             feature_bit(net::kFeatureCtrlGuestOffloads) |
                             feature_bit(net::kFeatureGuestAnnounce) | feature_bit(net::kFeatureSpeedDuplex);

// What stays with us wherever the frames go.
constexpr uint64_t kOurs =
    (kAlways & ~(feature_bit(net::kFeatureMrgRxbuf) | feature_bit(net::kFeatureCtrlGuestOffloads))) |
    feature_bit(net::kFeatureMtu) | feature_bit(net::kFeatureMq);

// 5.1.2: the even ones, and the control queue comes after the last pair. VirtioTraits names no queue past the
// 64th.
uint64_t receive_queues(uint16_t pairs) {
  constexpr uint64_t kEven = 0x5555'5555'5555'5555;
  return pairs < 32 ? kEven & ((uint64_t{1} << (2 * pairs)) - 1) : kEven;
}

// What whoever moves the frames says; 0: nothing that a guest could be told.
uint16_t mtu_of(DataPlane& plane) {
  uint16_t mtu = 0;
  const auto bytes = std::as_writable_bytes(std::span(&mtu, 1));
  if ((plane.features() & feature_bit(net::kFeatureMtu)) == 0) return 0;
  if (!plane.read_config(offsetof(net::Config, mtu), bytes)) return 0;
  return mtu >= kMinNetMtu ? mtu : uint16_t{0};
}

}  // namespace

VirtioNet::VirtioNet(std::unique_ptr<NetBackend> net, const Options& options, Log& log)
    : net_(std::move(net)),
      net_traits_(net_->traits()),
      options_(options),
      name_(fmt::format("virtio-net.{}", options.index)),
      log_(log),
      idle_(size_t{2} * net_traits_.queue_pairs + 1) {
  MV_CHECK(net_traits_.queue_pairs >= 1 && net_traits_.queue_pairs <= kMaxNetPairs);
  if (options_.speed != 0) net_traits_.speed = options_.speed;
  state_.filter.own = options_.mac;
  if (NetVhost* const vhost = net_->vhost(); vhost != nullptr) {
    plane_ = make_net_plane(*vhost, net_traits_.queue_pairs, name_, log_);
    if (net_traits_.mtu == 0) net_traits_.mtu = mtu_of(*plane_);
  }
  for (uint16_t i = 0; i < net_traits_.queue_pairs && !plane_; ++i) {
    pairs_.push_back(
        std::make_unique<NetPair>(net_->queue(i), board_, fmt::format("net.{} p{}", options_.index, i)));
  }
  net_->watch_link([this] {
    if (plane_ && net_->link_up()) plane_->link_is_up();
    signal_.changed();
  });
}

VirtioNet::~VirtioNet() {
  net_->watch_link({});
  if (control_) control_->stop();
  pairs_.clear();
}

uint64_t VirtioNet::offered() const {
  uint64_t features =
      kAlways | net::host_features(net_traits_.takes) | net::guest_features(net_traits_.gives);
  if (net_traits_.mtu >= kMinNetMtu) features |= feature_bit(net::kFeatureMtu);
  if (net_traits_.queue_pairs > 1) features |= feature_bit(net::kFeatureMq);
  if (plane_) features &= kOurs | plane_->features();
  return features;
}

VirtioTraits VirtioNet::traits() const {
  std::vector<uint16_t> sizes(size_t{2} * net_traits_.queue_pairs, kQueueSize);
  sizes.push_back(kControlQueueSize);
  return {.type = virtio::kDeviceNet,
          .name = "virtio-net",
          .pci_class = 0x020000,  // an Ethernet controller
          .features = offered(),
          .queue_sizes = std::move(sizes),
          .config_size = sizeof(net::Config),
          .receive_queues = receive_queues(net_traits_.queue_pairs),
          .unknown = plane_ ? kVhostRingFeatures & ~plane_->features() : 0};
}

void VirtioNet::read_config(uint32_t offset, std::span<std::byte> out) const {
  const std::scoped_lock lock(mutex_);
  net::Config config{};
  std::memcpy(config.mac, state_.filter.own.bytes.data(), sizeof config.mac);
  config.status = static_cast<uint16_t>((net_->link_up() ? net::kStatusLinkUp : 0) |
                                        (state_.announce ? net::kStatusAnnounce : 0));
  config.max_virtqueue_pairs = net_traits_.queue_pairs;
  config.mtu = net_traits_.mtu;
  config.speed = net_traits_.speed;
  config.duplex = net::kDuplexFull;
  std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&config) + offset, out.size());
}

void VirtioNet::ack_features(uint64_t features) {
  const std::scoped_lock lock(mutex_);
  acked_ = features;
  if (plane_) plane_->ack_features(features);
}

// 5.1.2: without MQ there is one pair, whatever the card has, and the control queue follows it.
uint16_t VirtioNet::pairs_usable() const {
  return agreed(net::kFeatureMq) ? net_traits_.queue_pairs : uint16_t{1};
}

VirtioNet::Role VirtioNet::role(uint16_t index) const {
  const unsigned queues = 2U * pairs_usable();
  if (index < queues && plane_) return Role::elsewhere;
  if (index < queues) return index % 2 == 0 ? Role::receive : Role::transmit;
  return index == queues && agreed(net::kFeatureCtrlVq) ? Role::control : Role::none;
}

Result<void> VirtioNet::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  if (running_ == 0) {
    begin();
    signal_.started(context.signals);
  }
  Result<void> started;
  switch (role(index)) {
    case Role::receive:
      started = pairs_[index / 2]->start_rx({.mergeable = agreed(net::kFeatureMrgRxbuf), .name = name_},
                                            std::move(queue), context);
      break;
    case Role::transmit:
      started = pairs_[index / 2]->start_tx({.takes = net::host_offloads(acked_), .name = name_},
                                            std::move(queue), context);
      break;
    case Role::elsewhere: started = plane_->start_queue(index, std::move(queue), context); break;
    case Role::control: started = start_control(std::move(queue), context); break;
    case Role::none: idle_[index].emplace(std::move(queue)); break;
  }
  if (started) ++running_;
  if (running_ == 0) signal_.stopped();
  return started;
}

std::optional<Virtqueue> VirtioNet::stop_queue(uint16_t index) {
  std::optional<Virtqueue> queue;
  if (index >= idle_.size()) return queue;
  switch (role(index)) {
    case Role::receive: queue = pairs_[index / 2]->stop_rx(); break;
    case Role::transmit: queue = pairs_[index / 2]->stop_tx(); break;
    case Role::elsewhere: queue = plane_->stop_queue(index); break;
    case Role::control:
      if (control_) queue.emplace(control_->stop());
      control_.reset();
      break;
    case Role::none: queue = std::exchange(idle_[index], std::nullopt); break;
  }
  if (queue && --running_ == 0) signal_.stopped();
  return queue;
}

// With no queue running, and the features settled; also after a restore.
void VirtioNet::begin() {
  const std::scoped_lock lock(mutex_);
  if (auto applied = apply(state_); !applied) {
    log_.write(LogLevel::warn, fmt::format("{}: {}", name_, applied.error().what));
  }
  if (std::exchange(announce_later_, false)) start_announcing();
}

// With mutex_ held: the back end and the workers follow `state`.
Result<void> VirtioNet::apply(const net::ControlState& state) {
  NetSettings settings{.filter = state.filter, .gives = net::guest_offloads(acked_)};
  settings.filter.vlan_filter = agreed(net::kFeatureCtrlVlan);
  if (state.gives) settings.gives = static_cast<NetOffloads>(settings.gives & *state.gives);
  // First those who read, when less is to come; what is under way then is lost.
  board_.post(settings);
  if (auto allowed = net_->allow(settings.gives); !allowed) return allowed;
  const uint16_t pairs = std::min(state.pairs, pairs_usable());
  if (plane_) {
    if (auto used = plane_->use_queues(static_cast<uint16_t>(2 * pairs)); !used) return used;
  }
  return net_->use_queue_pairs(pairs);
}

Result<void> VirtioNet::start_control(Virtqueue&& queue, QueueContext context) {
  auto runner = QueueRunner::start(
      fmt::format("net.{} ctl", options_.index), std::move(queue), context, {},
      {.drain = [this](Virtqueue& q, unsigned, const StopFlag& stop) { return drain_control(q, stop); }});
  if (!runner) return std::unexpected(runner.error());
  control_ = std::move(*runner);
  return {};
}

Result<void> VirtioNet::drain_control(Virtqueue& queue, const StopFlag& stop) {
  // Leaves off after one queue's worth, so that the guest sees what is done.
  for (unsigned done = 0; done < queue.size() && !stop.requested(); ++done) {
    auto popped = queue.pop();
    if (!popped) return std::unexpected(popped.error());
    if (!*popped) return {};
    Chain chain = std::move(**popped);
    uint32_t written = 0;
    if (chain.writable_bytes() == 0) {
      log_.guest_fault(name_, "a command without room for its answer");
    } else {
      const net::Ack ack = run_control(chain);
      if (chain.write(0, std::as_bytes(std::span(&ack, 1)))) written = sizeof ack;
    }
    queue.complete(std::move(chain), written);
  }
  return {};
}

net::Ack VirtioNet::run_control(const Chain& chain) {
  const std::scoped_lock lock(mutex_);
  net::ControlState state = state_;
  const auto ack = net::run_command(chain, {acked_, net_traits_.queue_pairs}, state);
  if (ack != net::Ack::ok) return ack;
  if (auto applied = apply(state); !applied) {
    log_.write(LogLevel::warn, fmt::format("{}: {}", name_, applied.error().what));
    [[maybe_unused]] const auto back = apply(state_);
    return net::Ack::error;
  }
  state_ = state;
  return ack;
}

void VirtioNet::announce() {
  const std::scoped_lock lock(mutex_);
  start_announcing();
}

void VirtioNet::start_announcing() {
  if (!agreed(net::kFeatureGuestAnnounce)) return;
  state_.announce = true;
  signal_.changed();
}

void VirtioNet::reset() {
  const std::scoped_lock lock(mutex_);
  acked_ = 0;
  state_ = {};
  state_.filter.own = options_.mac;
  announce_later_ = false;
  signal_.forget();
}

void VirtioNet::save(StateWriter& out) const {
  const std::scoped_lock lock(mutex_);
  out.field(kMaxPairs, net_traits_.queue_pairs);
  out.bytes(kMac, std::as_bytes(std::span(options_.mac.bytes)));
  out.group(kControl, [this](StateWriter& w) { state_.save(w); });
}

Result<void> VirtioNet::load(StateReader& in) {
  const auto max_pairs = in.need<uint16_t>(kMaxPairs);
  const auto mac = in.bytes(kMac, sizeof(MacAddress));
  const auto controls = in.groups(kControl, 1);
  if (!max_pairs || !mac || mac->size() != sizeof(MacAddress) || !controls || controls->empty()) {
    return fail(Errc::corrupt, "a saved network card without its shape");
  }
  if (auto finished = in.finish(); !finished) return finished;
  if (*max_pairs != net_traits_.queue_pairs) {
    return fail(Errc::invalid, "the network card has other queues than the saved one");
  }
  const auto state = net::ControlState::parse(controls->front(), *max_pairs);
  if (!state) return std::unexpected(state.error());

  const std::scoped_lock lock(mutex_);
  std::memcpy(options_.mac.bytes.data(), mac->data(), mac->size());  // what the guest has seen
  state_ = *state;
  announce_later_ = true;  // it runs somewhere else now
  return {};
}

std::unique_ptr<VirtioDevice> create_virtio_net(std::string_view spec, const CreateContext& context) {
  const NetSpec parsed = parse_net_spec(spec);
  auto net = open_net(parsed, {.machine = std::string(context.machine),
                               .nic = context.index,
                               .cpus = context.cpus,
                               .log = context.log,
                               .time = context.time});
  if (!net) return nullptr;
  const MacAddress mac = parsed.mac.value_or(derive_mac(context.machine, context.index));
  return std::make_unique<VirtioNet>(
      std::move(net), VirtioNet::Options{.index = context.index, .mac = mac, .speed = parsed.speed},
      context.log);
}

std::string example_virtio_net_spec(const std::filesystem::path& folder) {
  return fmt::format("null,queues=2,mtu=9000,rate=1G,pcap={}", (folder / "net.pcap").string());
}

}  // namespace minivmm
