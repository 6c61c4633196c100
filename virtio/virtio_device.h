// What every virtio device is to its transport. It does not know which transport drives it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "virtio/virtqueue.h"
#include "vmm/core/device.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"
#include "vmm/core/guest_memory.h"
#include "vmm/core/log.h"

namespace minivmm {

struct VirtioTraits {
  uint16_t type = 0;                  // virtio 1.2, 5
  std::string_view name;              // "virtio-blk"
  uint32_t pci_class = 0xff0000;      // 24 bits, for the PCI transport
  uint64_t features = 0;              // device-specific bits; the transport adds VERSION_1 and the ring's
  std::vector<uint16_t> queue_sizes;  // the most descriptors of each queue, powers of two
  uint32_t config_size = 0;           // bytes of the device configuration space (2.5)
  // Bit i: queue i's buffers stay with the device until it has something to tell the guest (a receive queue).
  uint64_t receive_queues = 0;
  uint64_t unknown = 0;  // of the ring's features, those that its data plane does not know
};

// By which a data plane outside this process tells of a queue.
struct QueueCalls {
  EventFd used;   // buffers have been used
  EventFd error;  // it cannot make sense of the ring: the device needs a reset
};

// The transport's end of a device's wires. Thread-safe, lock-free against the transport's own state, never
// blocking: a worker calls it while another thread waits for that worker.
class VirtioSignals {
 public:
  virtual ~VirtioSignals() = default;
  virtual void used(uint16_t queue) = 0;  // used buffer notification (2.3)
  virtual void config_changed() = 0;      // a new config generation, and its notification (2.5)
  virtual void needs_reset() = 0;         // DEVICE_NEEDS_RESET: the queue is broken (2.1.2)

  // For a data plane outside this process: from here on a signal of `calls->used` does what used(queue) does,
  // without us where the interrupt can go straight to the guest. Until they are set anew or null, when no
  // more comes of them; they stay open until then. A device sets null before it gives the queue back.
  // Errc::io when the host has no thread or descriptor left. In start_queue() and stop_queue(), or where
  // those cannot run.
  virtual Result<void> set_calls(uint16_t queue, const QueueCalls* calls) = 0;
};

// What a running queue needs beside itself. All of it outlives stop_queue().
struct QueueContext {
  uint16_t index;
  const EventFd& kick;
  VirtioSignals& signals;
  GuestMemory& memory;
  Log& log;
};

// The transport makes all calls under its own mutex, from vCPU threads and the machine's; none may throw.
class VirtioDevice : public StateUnit {
 public:
  virtual VirtioTraits traits() const = 0;  // the same all its life

  // `offset` is in bytes from the start of the device configuration space, and offset + size lies within
  // traits().config_size. A write to what is read-only is ignored.
  virtual void read_config(uint32_t offset, std::span<std::byte> out) const = 0;
  virtual void write_config(uint32_t offset, std::span<const std::byte> in) = 0;

  // What the driver accepted, all of it offered; before any queue starts, and again after a restore.
  virtual void ack_features(uint64_t features) = 0;

  // The device owns the queue from here on. An error means the host could not (no thread): the device then
  // needs a reset.
  virtual Result<void> start_queue(uint16_t index, Virtqueue&&, QueueContext) = 0;
  // Finishes what is in hand, gives back the rest unexecuted, and returns the queue with nothing in flight
  // and nobody touching guest memory any more. Empty if it does not run. Takes QueueWorker::kStopDeadline at
  // most, unless the kernel does not return from a transfer.
  virtual std::optional<Virtqueue> stop_queue(uint16_t index) = 0;

  // Gives what the device stores another size in bytes, while it runs; none: the size that its storage has
  // got by other hands meanwhile. True if the configuration changed, and the driver has to be told.
  virtual Result<bool> resize(std::optional<uint64_t> /*bytes*/) {
    return fail(Errc::unsupported, "this device has no size");
  }

  // Back to power-on, with every queue stopped.
  virtual void reset() = 0;

  // The machine has ended, and every queue is stopped: what the device keeps for its guest goes to stable
  // storage. Nothing comes afterwards.
  virtual Result<void> close() { return {}; }
};

}  // namespace minivmm
