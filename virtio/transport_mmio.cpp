#include "virtio/transport_mmio.h"

#include <algorithm>
#include <utility>

#include "virtio/spec.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {

namespace mmio = virtio::mmio;
using Part = VirtioTransport::QueuePart;

constexpr uint32_t kVendor = 0x4d564d56;  // 4.2.2 leaves it to us: "VMVM"

enum Field : uint16_t {
  kTransport = 1,
  kInterrupt = 2,
  kDeviceSelect = 3,
  kDriverSelect = 4,
  kQueueSelect = 5
};

uint16_t queue_index(uint32_t select) {
  return static_cast<uint16_t>(std::min(select, 0xffffU));  // past any queue either way
}

}  // namespace

VirtioMmio::VirtioMmio(std::unique_ptr<VirtioDevice> device, IrqLine& irq, GuestMemory& memory, Log& log)
    : irq_(irq),
      name_("virtio-mmio." + std::string(device->state_name())),
      transport_(std::move(device), *this, memory, log) {}

std::vector<Doorbell> VirtioMmio::doorbells() const {
  std::vector<Doorbell> all;
  all.reserve(transport_.queues());
  for (uint16_t i = 0; i < transport_.queues(); ++i) {
    all.push_back({.offset = mmio::kQueueNotify, .width = 4, .match = i, .fd = transport_.kick(i).fd()});
  }
  return all;
}

IoStatus VirtioMmio::read(uint64_t offset, std::span<std::byte> data) {
  if (offset >= mmio::kConfig) {
    transport_.read_config(offset - mmio::kConfig, data);
    return IoStatus::ok;
  }
  if (offset % 4 != 0 || data.size() != 4) return IoStatus::bad_access;  // 4.2.2.2
  store_le(data, read_register(offset));
  return IoStatus::ok;
}

IoStatus VirtioMmio::write(uint64_t offset, std::span<const std::byte> data) {
  if (offset >= mmio::kConfig) {
    transport_.write_config(offset - mmio::kConfig, data);
    return IoStatus::ok;
  }
  if (offset % 4 != 0 || data.size() != 4) return IoStatus::bad_access;
  return write_register(offset, static_cast<uint32_t>(load_le(data))) ? IoStatus::ok : IoStatus::bad_access;
}

uint32_t VirtioMmio::read_register(uint64_t offset) const {
  const uint16_t queue = queue_index(queue_select_);
  switch (offset) {
    case mmio::kMagicValue: return mmio::kMagic;
    case mmio::kVersionNumber: return mmio::kVersion;
    case mmio::kDeviceId: return transport_.traits().type;
    case mmio::kVendorId: return kVendor;
    case mmio::kDeviceFeatures: return transport_.device_features(device_features_select_);
    case mmio::kQueueNumMax: return transport_.queue_max_size(queue);
    case mmio::kQueueReady: return transport_.queue_enabled(queue) ? 1 : 0;
    case mmio::kInterruptStatus: return interrupt_status_;
    case mmio::kStatus: return transport_.status();
    case mmio::kShmLenLow:  // 4.2.2: a shared memory region that does not exist has length -1
    case mmio::kShmLenHigh:
    case mmio::kShmBaseLow:
    case mmio::kShmBaseHigh: return ~uint32_t{0};
    case mmio::kConfigGeneration: return transport_.config_generation();
    default: return 0;  // write-only, or none
  }
}

bool VirtioMmio::write_register(uint64_t offset, uint32_t v) {
  switch (offset) {
    case mmio::kDeviceFeaturesSel: device_features_select_ = v; return true;
    case mmio::kDriverFeatures: transport_.set_driver_features(driver_features_select_, v); return true;
    case mmio::kDriverFeaturesSel: driver_features_select_ = v; return true;
    case mmio::kQueueSel: queue_select_ = v; return true;
    case mmio::kQueueNotify: transport_.notify(v); return true;
    case mmio::kInterruptAck: interrupt_status_.fetch_and(~v); return true;
    case mmio::kStatus: transport_.set_status(static_cast<uint8_t>(v)); return true;
    case mmio::kShmSel: return true;
    case mmio::kQueueNum:
    case mmio::kQueueReady:
    case mmio::kQueueReset:
    case mmio::kQueueDescLow:
    case mmio::kQueueDescHigh:
    case mmio::kQueueDriverLow:
    case mmio::kQueueDriverHigh:
    case mmio::kQueueDeviceLow:
    case mmio::kQueueDeviceHigh: write_queue_register(offset, v); return true;
    default: return false;
  }
}

void VirtioMmio::write_queue_register(uint64_t offset, uint32_t v) {
  const uint16_t queue = queue_index(queue_select_);
  switch (offset) {
    case mmio::kQueueNum: transport_.set_queue_size(queue, v); break;
    case mmio::kQueueReady: v == 1 ? transport_.enable_queue(queue) : transport_.disable_queue(queue); break;
    case mmio::kQueueReset:  // reads as 0: it is over when the write returns (4.2.2.1)
      if (v == 1) transport_.reset_queue(queue);
      break;
    case mmio::kQueueDescLow: transport_.set_queue_address(queue, Part::descriptors, false, v); break;
    case mmio::kQueueDescHigh: transport_.set_queue_address(queue, Part::descriptors, true, v); break;
    case mmio::kQueueDriverLow: transport_.set_queue_address(queue, Part::driver, false, v); break;
    case mmio::kQueueDriverHigh: transport_.set_queue_address(queue, Part::driver, true, v); break;
    case mmio::kQueueDeviceLow: transport_.set_queue_address(queue, Part::device, false, v); break;
    default: transport_.set_queue_address(queue, Part::device, true, v); break;
  }
}

// The bit first, then the edge. A driver that acknowledges what it saw and misses a bit set since gets the
// edge that follows that bit.
void VirtioMmio::queue_used(uint16_t /*queue*/) {
  interrupt_status_.fetch_or(virtio::kIsrQueue);
  irq_.pulse();
}

void VirtioMmio::config_changed() {
  interrupt_status_.fetch_or(virtio::kIsrConfig);
  irq_.pulse();
}

void VirtioMmio::wires_reset() {
  interrupt_status_ = 0;
  device_features_select_ = 0;
  driver_features_select_ = 0;
  queue_select_ = 0;
}

void VirtioMmio::save(StateWriter& out) const {
  out.group(kTransport, [this](StateWriter& w) { transport_.save(w); });
  out.field(kInterrupt, interrupt_status_.load());
  out.field(kDeviceSelect, device_features_select_.load());
  out.field(kDriverSelect, driver_features_select_.load());
  out.field(kQueueSelect, queue_select_.load());
}

Result<void> VirtioMmio::load(StateReader& in) {
  const auto groups = in.groups(kTransport, 1);
  const auto interrupt = in.need<uint32_t>(kInterrupt);
  const auto device_select = in.need<uint32_t>(kDeviceSelect);
  const auto driver_select = in.need<uint32_t>(kDriverSelect);
  const auto queue_select = in.need<uint32_t>(kQueueSelect);
  if (!groups || groups->empty() || !interrupt || !device_select || !driver_select || !queue_select) {
    return fail(Errc::corrupt, "a saved virtio-mmio transport without its registers");
  }
  if (auto finished = in.finish(); !finished) return finished;
  const auto saved = transport_.parse(groups->front());
  if (!saved) return std::unexpected(saved.error());

  transport_.commit(**saved);
  interrupt_status_ = *interrupt;
  device_features_select_ = *device_select;
  driver_features_select_ = *driver_select;
  queue_select_ = *queue_select;
  return {};
}

}  // namespace minivmm
