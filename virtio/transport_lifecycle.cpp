// VirtioTransport's queues over their life: start, stop, pause, resume, save and load.
#include <fmt/format.h>

#include <utility>

#include "virtio/spec.h"
#include "virtio/transport_common.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace status = virtio::status;

namespace {
enum Field : uint16_t { kStatus = 1, kDriverFeatures = 2, kGeneration = 3, kQueue = 4 };
enum QueueField : uint16_t {
  kSize = 1,
  kDescriptors = 2,
  kDriver = 3,
  kDevice = 4,
  kEnabled = 5,
  kPosition = 6
};
}  // namespace

struct VirtioTransport::Saved {
  struct Queue {
    VirtqueueLayout layout;
    bool enabled = false;
    std::optional<VirtqueuePosition> position;  // of one that ran
  };
  uint8_t status = 0;
  uint64_t driver_features = 0;
  uint32_t generation = 0;
  std::vector<Queue> queues;
};

Result<Virtqueue> VirtioTransport::make_queue(uint16_t index, const VirtqueueLayout& layout,
                                              VirtqueuePosition position) const {
  return Virtqueue::create(memory_, layout, std::move(position),
                           {.max_size = traits_.queue_sizes[index],
                            .event_idx = (driver_features_ & virtio::kFeatureEventIdx) != 0,
                            .indirect = (driver_features_ & virtio::kFeatureIndirectDesc) != 0,
                            .name = fmt::format("{} queue {}", name_, index)},
                           log_);
}

void VirtioTransport::start_queues() {
  for (uint16_t i = 0; i < queues(); ++i) {
    if (queues_[i]->enabled) start_queue(i);
  }
}

void VirtioTransport::start_queue(uint16_t index) {
  Queue& queue = *queues_[index];
  auto made =
      queue.parked ? Result<Virtqueue>(std::move(*queue.parked)) : make_queue(index, queue.layout, {});
  queue.parked.reset();
  if (!made) {
    guest_fault(made.error().what);
    needs_reset();
    return;
  }
  if (paused_) {  // the vCPU's last instruction before a pause; resume() starts it
    queue.parked = std::move(*made);
    return;
  }
  auto started = device_->start_queue(index, std::move(*made), {index, queue.kick, *this, memory_, log_});
  if (!started) {
    log_.write(LogLevel::error, fmt::format("{}: {}", name_, started.error().what));
    needs_reset();
    return;
  }
  queue.running.store(true, std::memory_order_release);  // pairs with the acquire in notify()
}

void VirtioTransport::stop_queue(uint16_t index) {
  queues_[index]->running.store(false, std::memory_order_release);
  device_->stop_queue(index);  // what was given back unexecuted dies with the queue
  queues_[index]->parked.reset();
}

void VirtioTransport::stop_queues() {
  for (uint16_t i = 0; i < queues(); ++i) stop_queue(i);
}

void VirtioTransport::forget_queue(uint16_t index) {
  queues_[index]->layout = {.size = traits_.queue_sizes[index]};
  queues_[index]->enabled = false;
  queues_[index]->kick.consume();
}

void VirtioTransport::reset() {
  const std::scoped_lock lock(mutex_);
  reset_locked();
}

Result<void> VirtioTransport::close() {
  const std::scoped_lock lock(mutex_);
  reset_locked();
  return device_->close();
}

Result<void> VirtioTransport::resize(std::optional<uint64_t> bytes) {
  const std::scoped_lock lock(mutex_);
  const auto changed = device_->resize(bytes);
  if (!changed) return std::unexpected(changed.error());
  // 3.1.1: no notification before DRIVER_OK; who looks later sees the new size.
  if (*changed && (status() & status::kDriverOk) != 0) config_changed();
  return {};
}

void VirtioTransport::tell_config_changed() {
  const std::scoped_lock lock(mutex_);
  if ((status() & status::kDriverOk) != 0) config_changed();  // as above
}

// 2.4. When this returns no worker is left that could touch guest memory or interrupt, so the status reads 0
// only then.
void VirtioTransport::reset_locked() {
  stop_queues();
  device_->reset();
  for (uint16_t i = 0; i < queues(); ++i) forget_queue(i);
  driver_features_ = 0;
  wires_.wires_reset();
  status_.store(0, std::memory_order_release);
}

void VirtioTransport::pause() {
  const std::scoped_lock lock(mutex_);
  if (std::exchange(paused_, true)) return;
  for (uint16_t i = 0; i < queues(); ++i) {
    queues_[i]->running.store(false, std::memory_order_release);
    queues_[i]->parked = device_->stop_queue(i);
  }
}

void VirtioTransport::resume() {
  const std::scoped_lock lock(mutex_);
  if (!std::exchange(paused_, false)) return;
  for (uint16_t i = 0; i < queues(); ++i) {
    if (queues_[i]->parked) start_queue(i);  // and looks at the ring once, which is the kick that may be lost
  }
}

void VirtioTransport::save(StateWriter& out) const {
  const std::scoped_lock lock(mutex_);
  MV_CHECK(paused_);
  out.field(kStatus, status());
  out.field(kDriverFeatures, driver_features_);
  out.field(kGeneration, generation_.load());
  for (const auto& queue : queues_) {
    out.group(kQueue, [&queue](StateWriter& w) {
      w.field(kSize, queue->layout.size);
      w.field(kDescriptors, value(queue->layout.descriptors));
      w.field(kDriver, value(queue->layout.driver));
      w.field(kDevice, value(queue->layout.device));
      w.field(kEnabled, static_cast<uint8_t>(queue->enabled));
      if (queue->parked) {
        w.group(kPosition, [&queue](StateWriter& p) { queue->parked->position().save(p); });
      }
    });
  }
}

namespace {

struct SavedQueue {
  VirtqueueLayout layout;
  bool enabled;
};

Result<SavedQueue> parse_layout(const StateReader& in) {
  const auto size = in.need<uint16_t>(kSize);
  const auto descriptors = in.need<uint64_t>(kDescriptors);
  const auto driver = in.need<uint64_t>(kDriver);
  const auto device = in.need<uint64_t>(kDevice);
  const auto enabled = in.need<uint8_t>(kEnabled);
  if (!size || !descriptors || !driver || !device || !enabled) {
    return fail(Errc::corrupt, "a saved virtqueue without its layout");
  }
  return SavedQueue{{*size, Gpa{*descriptors}, Gpa{*driver}, Gpa{*device}}, *enabled != 0};
}

}  // namespace

Result<std::shared_ptr<VirtioTransport::Saved>> VirtioTransport::parse(const StateReader& in) const {
  auto saved = std::make_shared<Saved>();
  const auto status_byte = in.need<uint8_t>(kStatus);
  const auto features = in.need<uint64_t>(kDriverFeatures);
  const auto generation = in.need<uint32_t>(kGeneration);
  if (!status_byte || !features || !generation)
    return fail(Errc::corrupt, "a saved virtio device without status");
  saved->status = *status_byte;
  saved->driver_features = *features;
  saved->generation = *generation;
  const bool settled = (saved->status & status::kFeaturesOk) != 0;
  if (settled && (saved->driver_features & ~offered()) != 0) {
    return fail(Errc::unsupported, "the saved guest uses virtio features that are not offered here");
  }
  if ((saved->status & status::kDriverOk) != 0 && !settled) {
    return fail(Errc::corrupt, "a saved virtio device runs without features");
  }
  const auto groups = in.groups(kQueue, queues_.size());
  if (!groups) return std::unexpected(groups.error());
  if (groups->size() != queues_.size()) return fail(Errc::corrupt, "saved virtqueues are missing");
  for (size_t i = 0; i < groups->size(); ++i) {
    const StateReader& group = (*groups)[i];
    auto layout = parse_layout(group);
    if (!layout) return std::unexpected(layout.error());
    Saved::Queue queue{layout->layout, layout->enabled, std::nullopt};
    if (queue.enabled) {
      if (auto checked = queue.layout.check(memory_, traits_.queue_sizes[i]); !checked) {
        return std::unexpected(checked.error());
      }
    }
    const auto positions = group.groups(kPosition, 1);
    if (!positions) return std::unexpected(positions.error());
    if (!positions->empty()) {
      if (!queue.enabled) return fail(Errc::corrupt, "a saved virtqueue runs without being enabled");
      auto position = VirtqueuePosition::parse((*positions)[0], queue.layout.size);
      if (!position) return std::unexpected(position.error());
      queue.position = std::move(*position);
    }
    if (auto finished = group.finish(); !finished) return std::unexpected(finished.error());
    saved->queues.push_back(std::move(queue));
  }
  return saved;
}

void VirtioTransport::commit(const Saved& saved) {
  const std::scoped_lock lock(mutex_);
  stop_queues();  // not device_->reset(): the device's own section may have been loaded already
  wires_.wires_reset();
  paused_ = true;
  driver_features_ = saved.driver_features;
  generation_.store(saved.generation);
  if ((saved.status & status::kFeaturesOk) != 0) device_->ack_features(driver_features_);
  for (uint16_t i = 0; i < queues(); ++i) {
    const Saved::Queue& from = saved.queues[i];
    queues_[i]->layout = from.layout;
    queues_[i]->enabled = from.enabled;
    if (!from.position) continue;
    auto made = make_queue(i, from.layout, *from.position);
    MV_CHECK(made);  // parse() has checked what it checks
    queues_[i]->parked = std::move(*made);
  }
  status_.store(saved.status, std::memory_order_release);
}

}  // namespace minivmm
