// The machine's virtio devices behind one transport: on the PCI bus, or each in an MMIO window of its own.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/core/bus.h"
#include "vmm/core/event_loop.h"
#include "vmm/core/log.h"
#include "vmm/machine/plan.h"

namespace minivmm {

class BlockBackend;
class DiskSet;
class SerialBackend;
class VirtioDevice;
class StallSink;
class VirtioTransport;
class Vm;

class VirtioBus {
 public:
  struct Host {
    Vm& vm;
    GuestMemory& memory;
    Bus& pio;
    Bus& mmio;
    TimeSource& time;
    Log& log;
    DiskSet& disks;
    StallSink& stalls;
    std::string_view identity;  // machine_identity(); outlives the call that creates the devices
    std::function<std::unique_ptr<SerialBackend>(const std::string& where)> serial;  // of console ports
  };
  virtual ~VirtioBus() = default;  // stops every queue

  // Back to power-on; queues are stopped and drained. With all vCPUs parked.
  virtual void reset() = 0;
  // The end: queues are stopped and drained, and what the devices keep is on stable storage. What failed, in
  // one line; empty: nothing.
  virtual std::string close() = 0;
  virtual std::span<IoDevice* const> devices() const = 0;  // for statistics

  // The first block device's disk, which its queues use too; null where there is none.
  BlockBackend* first_disk() const { return first_disk_; }

  // By the device's state_name(), "virtio-blk.0"; null where there is none.
  VirtioTransport* find(std::string_view name) const;
  virtual std::vector<VirtioTransport*> transports() const = 0;

 protected:
  void note(VirtioDevice&);  // each device, before it is given to its transport

 private:
  BlockBackend* first_disk_ = nullptr;
};

// Creates the planned devices and puts them on the buses. Throws ConfigError and HostError as their types do.
std::unique_ptr<VirtioBus> make_virtio_bus(const VirtioBus::Host& host, const MachineConfig&,
                                           const MachinePlan&);

}  // namespace minivmm
