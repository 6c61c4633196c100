#include "virtio/transport_common.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "virtio/spec.h"

namespace minivmm {

namespace status = virtio::status;

VirtioTransport::VirtioTransport(std::unique_ptr<VirtioDevice> device, TransportWires& wires,
                                 GuestMemory& memory, Log& log)
    : device_(std::move(device)),
      wires_(wires),
      memory_(memory),
      log_(log),
      traits_(device_->traits()),
      name_(device_->state_name()),
      calls_(traits_.queue_sizes.size()) {
  for (const uint16_t size : traits_.queue_sizes) {
    queues_.push_back(std::make_unique<Queue>());
    queues_.back()->layout.size = size;
  }
}

VirtioTransport::~VirtioTransport() {
  const std::scoped_lock lock(mutex_);
  stop_queues();
}

uint64_t VirtioTransport::offered() const {
  return traits_.features | ((virtio::kFeatureVersion1 | virtio::kFeatureEventIdx |
                              virtio::kFeatureIndirectDesc | virtio::kFeatureRingReset) &
                             ~traits_.unknown);
}

uint32_t VirtioTransport::device_features(uint32_t select) const {
  return select > 1 ? 0 : static_cast<uint32_t>(offered() >> (32 * select));
}

uint32_t VirtioTransport::driver_features(uint32_t select) const {
  const std::scoped_lock lock(mutex_);
  return select > 1 ? 0 : static_cast<uint32_t>(driver_features_ >> (32 * select));
}

void VirtioTransport::set_driver_features(uint32_t select, uint32_t v) {
  const std::scoped_lock lock(mutex_);
  if ((status() & status::kFeaturesOk) != 0) {  // 3.1.1, step 5: settled from here on
    guest_fault("it changed the features after FEATURES_OK");
    return;
  }
  if (select > 1) {
    if (v != 0) guest_fault("it accepted features past bit 63");
    return;
  }
  const uint64_t mask = uint64_t{0xffffffff} << (32 * select);
  driver_features_ = (driver_features_ & ~mask) | (uint64_t{v} << (32 * select));
}

void VirtioTransport::set_status(uint8_t v) {
  const std::scoped_lock lock(mutex_);
  if (v == 0) {
    reset_locked();
  } else {
    set_status_locked(v);
  }
}

void VirtioTransport::set_status_locked(uint8_t v) {
  const uint8_t before = status();
  // NEEDS_RESET is ours (2.1.2): a driver that writes back an older value does not clear it.
  v = static_cast<uint8_t>(v & ~status::kNeedsReset);
  if ((before & ~status::kNeedsReset & ~v) != 0) {  // 2.1.1
    guest_fault("it cleared a device status bit");
    return;
  }
  auto added = static_cast<uint8_t>(v & ~before);
  if ((added & status::kFeaturesOk) != 0) {
    // 2.2.2: unset means that we do not accept the driver's choice. A non-transitional device cannot work
    // without VERSION_1 (6.1).
    if ((driver_features_ & ~offered()) != 0 || (driver_features_ & virtio::kFeatureVersion1) == 0) {
      guest_fault("it accepted features that were not offered, or not VERSION_1");
      added = static_cast<uint8_t>(added & ~status::kFeaturesOk);
    } else {
      device_->ack_features(driver_features_);
    }
  }
  if ((added & status::kDriverOk) != 0 && ((before | added) & status::kFeaturesOk) == 0) {  // 3.1.1
    guest_fault("it set DRIVER_OK before FEATURES_OK");
    added = static_cast<uint8_t>(added & ~status::kDriverOk);
  }
  // fetch_or: a worker may set NEEDS_RESET at the same time.
  status_.fetch_or(added, std::memory_order_acq_rel);
  if ((added & status::kFailed) != 0) stop_queues();  // the driver has given up on us (2.1)
  if ((added & status::kDriverOk) != 0 && (status() & status::kFailed) == 0) start_queues();
}

void VirtioTransport::read_config(uint64_t offset, std::span<std::byte> out) const {
  std::ranges::fill(out, std::byte{0});
  if (offset >= traits_.config_size) return;
  const auto n = std::min<uint64_t>(out.size(), traits_.config_size - offset);
  const std::scoped_lock lock(mutex_);
  device_->read_config(static_cast<uint32_t>(offset), out.first(n));
}

void VirtioTransport::write_config(uint64_t offset, std::span<const std::byte> in) {
  if (offset > traits_.config_size || in.size() > traits_.config_size - offset) {
    guest_fault("it wrote past the device configuration space");
    return;
  }
  const std::scoped_lock lock(mutex_);
  device_->write_config(static_cast<uint32_t>(offset), in);
}

void VirtioTransport::notify(uint64_t queue) {
  if (queue >= queues_.size()) {
    guest_fault("it kicked a queue that does not exist");
  } else if (!queues_[queue]->running.load(std::memory_order_acquire)) {
    guest_fault("it kicked a queue that is not running");  // before DRIVER_OK (3.1.1) or after a reset
  } else {
    queues_[queue]->kick.signal_shared();  // with a vhost-user back end, perhaps
  }
}

uint16_t VirtioTransport::queue_max_size(uint16_t queue) const {
  return queue < queues_.size() ? traits_.queue_sizes[queue] : uint16_t{0};
}

uint16_t VirtioTransport::queue_size(uint16_t queue) const {
  const std::scoped_lock lock(mutex_);
  return queue < queues_.size() ? queues_[queue]->layout.size : uint16_t{0};
}

uint64_t VirtioTransport::queue_address(uint16_t queue, QueuePart part) const {
  const std::scoped_lock lock(mutex_);
  if (queue >= queues_.size()) return 0;
  const VirtqueueLayout& layout = queues_[queue]->layout;
  switch (part) {
    case QueuePart::descriptors: return value(layout.descriptors);
    case QueuePart::driver: return value(layout.driver);
    case QueuePart::device: return value(layout.device);
  }
  return 0;
}

bool VirtioTransport::queue_enabled(uint16_t queue) const {
  const std::scoped_lock lock(mutex_);
  return queue < queues_.size() && queues_[queue]->enabled;
}

VirtioTransport::Queue* VirtioTransport::settable(uint16_t index, const char* what) {
  if (index < queues_.size() && !queues_[index]->enabled) return queues_[index].get();
  guest_fault(what);  // 4.1.4.3.2: set up before it is enabled
  return nullptr;
}

void VirtioTransport::set_queue_size(uint16_t queue, uint32_t v) {
  const std::scoped_lock lock(mutex_);
  Queue* q = settable(queue, "it set the size of a queue that is enabled or does not exist");
  // Kept whatever it is, and checked when the queue is enabled; what does not fit 16 bits is too large as
  // well.
  if (q != nullptr) q->layout.size = v <= 0xffff ? static_cast<uint16_t>(v) : uint16_t{0xffff};
}

void VirtioTransport::set_queue_address(uint16_t queue, QueuePart part, bool high, uint32_t v) {
  const std::scoped_lock lock(mutex_);
  Queue* q = settable(queue, "it moved a queue that is enabled or does not exist");
  if (q == nullptr) return;
  Gpa& address = part == QueuePart::descriptors ? q->layout.descriptors
                 : part == QueuePart::driver    ? q->layout.driver
                                                : q->layout.device;
  const unsigned shift = high ? 32 : 0;
  address = Gpa{(value(address) & ~(uint64_t{0xffffffff} << shift)) | (uint64_t{v} << shift)};
}

void VirtioTransport::enable_queue(uint16_t queue) {
  const std::scoped_lock lock(mutex_);
  Queue* q = settable(queue, "it enabled a queue that is enabled already or does not exist");
  if (q == nullptr) return;
  if (auto checked = q->layout.check(memory_, traits_.queue_sizes[queue]); !checked) {
    guest_fault(checked.error().what);
    needs_reset();
    return;
  }
  q->enabled = true;
  if ((status() & (status::kDriverOk | status::kFailed)) == status::kDriverOk) start_queue(queue);
}

void VirtioTransport::disable_queue(uint16_t queue) {
  const std::scoped_lock lock(mutex_);
  if (queue >= queues_.size() || !queues_[queue]->enabled) return;
  stop_queue(queue);
  queues_[queue]->enabled = false;
}

bool VirtioTransport::reset_queue(uint16_t queue) {
  const std::scoped_lock lock(mutex_);
  if ((status() & status::kFeaturesOk) == 0 || (driver_features_ & virtio::kFeatureRingReset) == 0 ||
      queue >= queues_.size()) {
    guest_fault("it reset a queue that does not exist, or without RING_RESET");
    return false;
  }
  stop_queue(queue);
  forget_queue(queue);
  return true;
}

void VirtioTransport::config_changed() {
  generation_.fetch_add(1, std::memory_order_release);  // pairs with the acquire in config_generation()
  wires_.config_changed();
}

Result<void> VirtioTransport::set_calls(uint16_t queue, const QueueCalls* calls) {
  if (const QueueCalls* before = std::exchange(calls_[queue], nullptr); before != nullptr) {
    wires_.route_call(queue, -1);
    relay_.remove(before->used);
    relay_.remove(before->error);
  }
  if (calls == nullptr) return {};
  auto added = relay_.add(calls->used, [this, queue] { used(queue); });
  if (!added) return added;
  added = relay_.add(calls->error, [this] {
    guest_fault("whoever works on its queues cannot make sense of one");
    needs_reset();
  });
  if (!added) {
    relay_.remove(calls->used);
    return added;
  }
  calls_[queue] = calls;
  wires_.route_call(queue, calls->used.fd());
  return {};
}

void VirtioTransport::needs_reset() {
  const uint8_t before = status_.fetch_or(status::kNeedsReset, std::memory_order_acq_rel);
  if ((before & status::kDriverOk) != 0) wires_.config_changed();  // 2.1.2
}

}  // namespace minivmm
