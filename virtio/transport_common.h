// What the PCI and MMIO transports have in common: the device status state machine (virtio 1.2, 2.1, 3.1),
// feature negotiation (2.2), the set-up of queues, and their life cycle. A transport decodes registers and
// sends interrupts; the rest is here.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "virtio/call_relay.h"
#include "virtio/virtio_device.h"
#include "vmm/core/device.h"
#include "vmm/core/fd.h"

namespace minivmm {

// How a transport tells the guest. Called on workers' threads too, so: thread-safe, and never waiting for
// anything that waits for a worker.
class TransportWires {
 public:
  virtual ~TransportWires() = default;
  virtual void queue_used(uint16_t queue) = 0;
  virtual void config_changed() = 0;
  virtual void wires_reset() = 0;  // interrupts forgotten, vectors unassigned; with all queues stopped
  // A signal of this eventfd is to interrupt as queue_used() does, wherever that can be without us; elsewhere
  // the relay calls queue_used(). -1: no more.
  virtual void route_call(uint16_t /*queue*/, int /*eventfd*/) {}
};

class VirtioTransport final : public VirtioSignals {
 public:
  // `wires`, `memory` and `log` outlive it. Throws HostError when the host has no descriptors for doorbells.
  VirtioTransport(std::unique_ptr<VirtioDevice> device, TransportWires& wires, GuestMemory& memory, Log& log);
  ~VirtioTransport() override;  // stops the queues
  VirtioTransport(const VirtioTransport&) = delete;
  VirtioTransport& operator=(const VirtioTransport&) = delete;

  VirtioDevice& device() { return *device_; }
  const VirtioTraits& traits() const { return traits_; }
  uint16_t queues() const { return static_cast<uint16_t>(traits_.queue_sizes.size()); }
  const EventFd& kick(uint16_t queue) const { return queues_[queue]->kick; }

  // --- The guest's registers. Queue indices may be any: a queue that does not exist has size 0.

  uint32_t device_features(uint32_t select) const;
  uint32_t driver_features(uint32_t select) const;
  void set_driver_features(uint32_t select, uint32_t v);
  uint8_t status() const { return status_.load(std::memory_order_acquire); }
  void set_status(uint8_t v);  // 0: resets
  uint32_t config_generation() const { return generation_.load(std::memory_order_acquire); }
  void read_config(uint64_t offset, std::span<std::byte> out) const;  // zeroes past the end
  void write_config(uint64_t offset, std::span<const std::byte> in);
  void notify(uint64_t queue);  // the slow path of a doorbell; takes no lock

  enum class QueuePart : uint8_t { descriptors, driver, device };
  uint16_t queue_max_size(uint16_t queue) const;
  uint16_t queue_size(uint16_t queue) const;
  void set_queue_size(uint16_t queue, uint32_t v);
  uint64_t queue_address(uint16_t queue, QueuePart) const;
  void set_queue_address(uint16_t queue, QueuePart, bool high, uint32_t v);  // one half
  bool queue_enabled(uint16_t queue) const;
  void enable_queue(uint16_t queue);
  void disable_queue(uint16_t queue);  // stops it; MMIO only (4.2.2.2)
  // 2.6.1: stops it and forgets its layout; has happened when it returns. False: the driver may not.
  bool reset_queue(uint16_t queue);

  void guest_fault(std::string_view what) { log_.guest_fault(name_, what); }

  // --- The machine's calls, with all vCPUs paused.

  void reset();
  Result<void> close();  // reset(), then VirtioDevice::close()
  // VirtioDevice::resize(), and tells the driver; at any time.
  Result<void> resize(std::optional<uint64_t> bytes);
  // What read_config() gives has changed by the machine's doing; at any time.
  void tell_config_changed();
  void pause();                   // drains every queue and keeps it; idempotent
  void resume();                  // starts them again, and kicks each once
  void save(StateWriter&) const;  // while paused
  struct Saved;
  Result<std::shared_ptr<Saved>> parse(const StateReader&) const;  // changes nothing
  void commit(const Saved&);                                       // leaves it paused

  // --- The device's.

  void used(uint16_t queue) override { wires_.queue_used(queue); }
  void config_changed() override;
  void needs_reset() override;
  Result<void> set_calls(uint16_t queue, const QueueCalls* calls) override;

 private:
  struct Queue {
    VirtqueueLayout layout;
    bool enabled = false;
    std::atomic<bool> running{false};  // its device has it; for notify(), which takes no lock
    std::optional<Virtqueue> parked;   // while paused
    EventFd kick;
  };

  // All with mutex_ held.
  void reset_locked();
  void set_status_locked(uint8_t v);
  void start_queues();
  void start_queue(uint16_t index);
  void stop_queue(uint16_t index);
  void stop_queues();
  void forget_queue(uint16_t index);  // one that is stopped: back to power-on
  Queue* settable(uint16_t index, const char* what);
  Result<Virtqueue> make_queue(uint16_t index, const VirtqueueLayout&, VirtqueuePosition) const;
  uint64_t offered() const;

  std::unique_ptr<VirtioDevice> device_;
  TransportWires& wires_;
  GuestMemory& memory_;
  Log& log_;
  VirtioTraits traits_;
  std::string name_;
  // Held while workers are joined, so nothing a worker calls takes it (docs/virtqueue.md).
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Queue>> queues_;
  uint64_t driver_features_ = 0;
  bool paused_ = false;
  std::atomic<uint8_t> status_{0};
  std::atomic<uint32_t> generation_{0};
  std::vector<const QueueCalls*> calls_;  // by queue; under the same rules as set_calls()
  CallRelay relay_;                       // last: its thread uses the rest
};

}  // namespace minivmm
