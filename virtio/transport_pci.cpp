#include "virtio/transport_pci.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "virtio/spec.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {

namespace pci = virtio::pci;
using Part = VirtioTransport::QueuePart;

constexpr unsigned kBar = 0;
constexpr unsigned kMsixBar = 2;
constexpr uint64_t kBarSize = 0x4000;  // a page each, so that what is hot can be mapped apart
constexpr uint64_t kCommonOffset = 0x0000;
constexpr uint64_t kIsrOffset = 0x1000;
constexpr uint64_t kDeviceOffset = 0x2000;
constexpr uint64_t kNotifyOffset = 0x3000;
constexpr uint64_t kPartSize = 0x1000;
constexpr uint32_t kNotifyMultiplier = 4;  // each queue its own address, so the value need not be looked at

constexpr uint16_t kCapData = 16;  // in VIRTIO_PCI_CAP_PCI_CFG, 4.1.4.9

enum Field : uint16_t {
  kTransport = 1,
  kIsr = 2,
  kDeviceSelect = 3,
  kDriverSelect = 4,
  kQueueSelect = 5,
  kConfigVector = 6,
  kQueueVectors = 7,
};

PciIdentity identity(const VirtioTraits& traits) {
  const auto id = static_cast<uint16_t>(pci::kDeviceBase + traits.type);
  return {.vendor = pci::kVendor,
          .device = id,
          .class_code = traits.pci_class,
          .revision = 1,  // 4.1.2.1
          .subsystem_vendor = pci::kVendor,
          .subsystem = id};
}

// The width of the common configuration field that starts at `offset`, 0 if none does. A driver accesses each
// field whole, and 64-bit ones by halves (4.1.3.1).
size_t common_width(uint64_t offset) {
  switch (offset) {
    case pci::kDeviceStatus:
    case pci::kConfigGeneration: return 1;
    case pci::kConfigMsixVector:
    case pci::kNumQueues:
    case pci::kQueueSelect:
    case pci::kQueueSize:
    case pci::kQueueMsixVector:
    case pci::kQueueEnable:
    case pci::kQueueNotifyOff:
    case pci::kQueueNotifyData:
    case pci::kQueueReset: return 2;
    default: return offset % 4 == 0 && offset < pci::kCommonSize ? 4 : 0;
  }
}

}  // namespace

VirtioPci::VirtioPci(std::unique_ptr<VirtioDevice> device, MsiSink& sink, GuestMemory& memory, Log& log)
    : PciFunction(identity(device->traits())),
      name_("virtio-pci." + std::string(device->state_name())),
      config_vector_(pci::kNoVector),
      queue_vectors_(device->traits().queue_sizes.size()),
      msix_(*this, kMsixBar, static_cast<uint16_t>(queue_vectors_.size() + 1), sink, &log),
      calls_(queue_vectors_.size(), -1),
      transport_(std::move(device), *this, memory, log) {
  MV_CHECK(queue_vectors_.size() * kNotifyMultiplier <= kPartSize);
  for (auto& vector : queue_vectors_) vector = pci::kNoVector;
  set_bar(kBar, PciBarKind::memory64, kBarSize, window_);
  add_capabilities();
}

void VirtioPci::add_capabilities() {
  const auto notify_size = static_cast<uint32_t>(queue_vectors_.size()) * kNotifyMultiplier;
  add_capability(pci::kCapCommon, kCommonOffset, pci::kCommonSize, 0, false, false);
  add_capability(pci::kCapNotify, kNotifyOffset, notify_size, kNotifyMultiplier, true, false);
  add_capability(pci::kCapIsr, kIsrOffset, 1, 0, false, false);
  if (transport_.traits().config_size != 0) {
    add_capability(pci::kCapDevice, kDeviceOffset, transport_.traits().config_size, 0, false, false);
  }
  pci_cfg_capability_ = add_capability(pci::kCapPciCfg, 0, 0, 0, true, true);
}

// 4.1.4: struct virtio_pci_cap, perhaps with one more 32-bit field.
uint8_t VirtioPci::add_capability(uint8_t type, uint32_t offset, uint32_t length, uint32_t extra,
                                  bool has_extra, bool writable) {
  struct [[gnu::packed]] Body {  // what follows the id and next bytes
    uint8_t cap_len;
    uint8_t cfg_type;
    uint8_t bar;
    uint8_t id;
    uint8_t padding[2];
    uint32_t offset;
    uint32_t length;
    uint32_t extra;
  };
  const size_t size = sizeof(Body) - (has_extra ? 0 : sizeof extra);
  Body body{};
  body.cap_len = static_cast<uint8_t>(size + 2);
  body.cfg_type = type;
  body.bar = kBar;
  body.offset = offset;
  body.length = length;
  body.extra = extra;
  Body mask{};  // 4.1.4.9: bar, offset, length and pci_cfg_data
  mask.bar = 0xff;
  mask.offset = mask.length = mask.extra = 0xffffffff;
  return config().add_capability(
      kPciCapVendor, std::as_bytes(std::span(&body, 1)).first(size),
      writable ? std::as_bytes(std::span(&mask, 1)).first(size) : std::span<const std::byte>{});
}

std::vector<Doorbell> VirtioPci::doorbells(unsigned bar) {
  std::vector<Doorbell> all;
  if (bar != kBar) return all;
  all.reserve(transport_.queues());
  for (uint16_t i = 0; i < transport_.queues(); ++i) {
    all.push_back({.offset = kNotifyOffset + uint64_t{i} * kNotifyMultiplier,
                   .width = 0,
                   .match = std::nullopt,
                   .fd = transport_.kick(i).fd()});
  }
  return all;
}

IoStatus VirtioPci::Window::read(uint64_t offset, std::span<std::byte> data) {
  if (offset < kIsrOffset) {
    if (common_width(offset) != data.size()) return IoStatus::bad_access;
    store_le(data, owner_.read_common(offset));
  } else if (offset < kDeviceOffset) {
    if (offset != kIsrOffset || data.size() != 1) return IoStatus::bad_access;
    store_le(data, owner_.isr_.exchange(0));  // 4.1.4.5: reading acknowledges
  } else if (offset < kNotifyOffset) {
    owner_.transport_.read_config(offset - kDeviceOffset, data);
  } else {
    store_le(data, 0);
  }
  return IoStatus::ok;
}

IoStatus VirtioPci::Window::write(uint64_t offset, std::span<const std::byte> data) {
  if (offset < kIsrOffset) {
    if (common_width(offset) != data.size()) return IoStatus::bad_access;
    owner_.write_common(offset, static_cast<uint32_t>(load_le(data)));
  } else if (offset < kDeviceOffset) {
    return IoStatus::bad_access;  // read-only
  } else if (offset < kNotifyOffset) {
    owner_.transport_.write_config(offset - kDeviceOffset, data);
  } else {
    owner_.transport_.notify((offset - kNotifyOffset) / kNotifyMultiplier);
  }
  return IoStatus::ok;
}

uint64_t VirtioPci::read_common(uint64_t offset) const {
  const uint16_t queue = queue_select_;
  const auto half = [&](Part part) {
    const uint64_t address = transport_.queue_address(queue, part);
    return offset % 8 == 0 ? address & 0xffffffff : address >> 32;
  };
  switch (offset) {
    case pci::kDeviceFeatureSelect: return device_features_select_;
    case pci::kDeviceFeature: return transport_.device_features(device_features_select_);
    case pci::kDriverFeatureSelect: return driver_features_select_;
    case pci::kDriverFeature: return transport_.driver_features(driver_features_select_);
    case pci::kConfigMsixVector: return config_vector_;
    case pci::kNumQueues: return transport_.queues();
    case pci::kDeviceStatus: return transport_.status();
    case pci::kConfigGeneration: return transport_.config_generation() & 0xff;
    case pci::kQueueSelect: return queue;
    case pci::kQueueSize: return transport_.queue_size(queue);
    case pci::kQueueMsixVector:
      return queue < queue_vectors_.size() ? queue_vectors_[queue].load() : pci::kNoVector;
    case pci::kQueueEnable: return transport_.queue_enabled(queue) ? 1 : 0;
    case pci::kQueueNotifyOff: return queue < queue_vectors_.size() ? queue : 0;
    case pci::kQueueDesc:
    case pci::kQueueDesc + 4: return half(Part::descriptors);
    case pci::kQueueDriver:
    case pci::kQueueDriver + 4: return half(Part::driver);
    case pci::kQueueDevice:
    case pci::kQueueDevice + 4: return half(Part::device);
    // Queue reset: it is over when the write returns (4.1.4.3.1). Notification data is not offered.
    default: return 0;
  }
}

void VirtioPci::write_common(uint64_t offset, uint32_t v) {
  const uint16_t queue = queue_select_;
  switch (offset) {
    case pci::kDeviceFeatureSelect: device_features_select_ = v; break;
    case pci::kDriverFeatureSelect: driver_features_select_ = v; break;
    case pci::kDriverFeature: transport_.set_driver_features(driver_features_select_, v); break;
    case pci::kConfigMsixVector: config_vector_ = checked_vector(v); break;
    case pci::kDeviceStatus: transport_.set_status(static_cast<uint8_t>(v)); break;
    case pci::kQueueSelect: queue_select_ = static_cast<uint16_t>(v); break;
    default: write_queue_field(offset, queue, v); break;
  }
}

void VirtioPci::write_queue_field(uint64_t offset, uint16_t queue, uint32_t v) {
  const bool high = offset % 8 != 0;
  switch (offset) {
    case pci::kQueueSize: transport_.set_queue_size(queue, v); break;
    case pci::kQueueMsixVector:
      if (queue < queue_vectors_.size()) set_queue_vector(queue, checked_vector(v));
      break;
    case pci::kQueueEnable:  // 4.1.4.3.2: 0 must not be written; only a reset disables a queue
      v == 1 ? transport_.enable_queue(queue) : transport_.guest_fault("it disabled a queue");
      break;
    case pci::kQueueReset:
      if (v == 1 && transport_.reset_queue(queue)) set_queue_vector(queue, pci::kNoVector);
      break;
    case pci::kQueueDesc:
    case pci::kQueueDesc + 4: transport_.set_queue_address(queue, Part::descriptors, high, v); break;
    case pci::kQueueDriver:
    case pci::kQueueDriver + 4: transport_.set_queue_address(queue, Part::driver, high, v); break;
    case pci::kQueueDevice:
    case pci::kQueueDevice + 4: transport_.set_queue_address(queue, Part::device, high, v); break;
    default: break;  // read-only
  }
}

// 4.1.5.1.2.1: a vector that cannot be had reads back as NO_VECTOR.
uint16_t VirtioPci::checked_vector(uint32_t v) {
  if (v < msix_.vectors()) return static_cast<uint16_t>(v);
  if (v != pci::kNoVector) transport_.guest_fault("it named an MSI-X vector that does not exist");
  return pci::kNoVector;
}

void VirtioPci::set_queue_vector(uint16_t queue, uint16_t vector) {
  const std::scoped_lock lock(calls_mutex_);
  const int call = calls_[queue];
  const uint16_t before = queue_vectors_[queue].exchange(vector);
  if (call < 0 || before == vector) return;
  msix_.unbind(before, call);
  msix_.bind(vector, call);
}

void VirtioPci::route_call(uint16_t queue, int eventfd) {
  const std::scoped_lock lock(calls_mutex_);
  const uint16_t vector = queue_vectors_[queue];
  if (calls_[queue] >= 0) msix_.unbind(vector, calls_[queue]);
  calls_[queue] = eventfd;
  if (eventfd >= 0) msix_.bind(vector, eventfd);
}

void VirtioPci::queue_used(uint16_t queue) {
  if (!msix_.enabled()) isr_.fetch_or(virtio::kIsrQueue);  // 4.1.5.1.3: for a driver that polls
  msix_.trigger(queue_vectors_[queue].load(std::memory_order_relaxed));
}

void VirtioPci::config_changed() {
  if (!msix_.enabled()) isr_.fetch_or(virtio::kIsrConfig);
  msix_.trigger(config_vector_.load(std::memory_order_relaxed));
}

void VirtioPci::wires_reset() {
  isr_ = 0;
  device_features_select_ = 0;
  driver_features_select_ = 0;
  queue_select_ = 0;
  config_vector_ = pci::kNoVector;
  for (auto& vector : queue_vectors_) vector = pci::kNoVector;
}

bool VirtioPci::in_config_window(uint16_t offset, size_t size) const {
  const auto data = static_cast<uint16_t>(pci_cfg_capability_ + kCapData);
  return offset >= data && offset + size <= data + size_t{4};
}

void VirtioPci::config_read(uint16_t offset, std::span<std::byte> data) {
  if (in_config_window(offset, data.size())) config_window_access(false);
  config().read(offset, data);
}

void VirtioPci::config_write(uint16_t offset, std::span<const std::byte> data) {
  config().write(offset, data);
  if (in_config_window(offset, data.size())) config_window_access(true);
}

// 4.1.4.9: an access to pci_cfg_data becomes one of cap.length bytes at cap.offset in BAR cap.bar.
void VirtioPci::config_window_access(bool write) {
  const auto at = [this](unsigned field) { return static_cast<uint16_t>(pci_cfg_capability_ + field); };
  const auto bar = static_cast<uint8_t>(config().get16(at(4)));
  const uint32_t offset = config().get32(at(8));
  const uint32_t length = config().get32(at(12));
  const bool fits = (length == 1 || length == 2 || length == 4) && offset % length == 0 && bar < kPciBars &&
                    bar_device(bar) != nullptr && offset + uint64_t{length} <= config().bar_size(bar);
  if (!fits) {
    transport_.guest_fault("it set up the configuration window for no register");
    return;
  }
  std::array<std::byte, 4> bytes{};
  store_le(bytes, config().get32(at(kCapData)));
  const auto span = std::span(bytes).first(length);
  if (write) {
    bar_device(bar)->write(offset, span);
    return;
  }
  if (bar_device(bar)->read(offset, span) != IoStatus::ok) std::ranges::fill(span, std::byte{0xff});
  config().set32(at(kCapData), static_cast<uint32_t>(load_le(bytes)));
}

void VirtioPci::save(StateWriter& out) const {
  save_pci(out);
  out.group(kTransport, [this](StateWriter& w) { transport_.save(w); });
  out.field(kIsr, isr_.load());
  out.field(kDeviceSelect, device_features_select_.load());
  out.field(kDriverSelect, driver_features_select_.load());
  out.field(kQueueSelect, queue_select_.load());
  out.field(kConfigVector, config_vector_.load());
  const std::vector<uint16_t> vectors(queue_vectors_.begin(), queue_vectors_.end());
  out.bytes(kQueueVectors, std::as_bytes(std::span(vectors)));
}

Result<void> VirtioPci::load(StateReader& in) {
  const auto pci_state = parse_pci(in);
  if (!pci_state) return std::unexpected(pci_state.error());
  const auto groups = in.groups(kTransport, 1);
  const auto isr = in.need<uint8_t>(kIsr);
  const auto device_select = in.need<uint32_t>(kDeviceSelect);
  const auto driver_select = in.need<uint32_t>(kDriverSelect);
  const auto queue_select = in.need<uint16_t>(kQueueSelect);
  const auto config_vector = in.need<uint16_t>(kConfigVector);
  const auto raw_vectors = in.bytes(kQueueVectors, queue_vectors_.size() * sizeof(uint16_t));
  if (!groups || groups->empty() || !isr || !device_select || !driver_select || !queue_select ||
      !config_vector || !raw_vectors || raw_vectors->size() != queue_vectors_.size() * sizeof(uint16_t)) {
    return fail(Errc::corrupt, "a saved virtio-pci transport without its registers");
  }
  if (auto finished = in.finish(); !finished) return finished;
  const auto saved = transport_.parse(groups->front());
  if (!saved) return std::unexpected(saved.error());
  std::vector<uint16_t> vectors(queue_vectors_.size());
  std::memcpy(vectors.data(), raw_vectors->data(), raw_vectors->size());

  commit_pci(*pci_state);
  transport_.commit(**saved);
  isr_ = *isr;
  device_features_select_ = *device_select;
  driver_features_select_ = *driver_select;
  queue_select_ = *queue_select;
  config_vector_ = *config_vector;  // Msix ignores a vector that does not exist
  for (size_t i = 0; i < vectors.size(); ++i) queue_vectors_[i] = vectors[i];
  return {};
}

}  // namespace minivmm
