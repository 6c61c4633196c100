// One virtual machine: composition and life cycle. docs/architecture.md, "A machine's life", has the states.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "devices/serial_backend.h"
#include "vmm/core/balloon_stats.h"
#include "vmm/core/event_loop.h"
#include "vmm/core/log.h"
#include "vmm/kvm/exit_stats.h"
#include "vmm/machine/config.h"

namespace minivmm {

// What the embedding program adds to a configuration.
struct MachineHooks {
  // Makes the first serial port's back end instead of MachineConfig::serial.
  std::function<std::unique_ptr<SerialBackend>(EventLoop&, Log&)> serial;
  // Makes the back end of the one serial port or console that is on "stdio".
  std::function<std::unique_ptr<SerialBackend>(EventLoop&, Log&, SlowReader)> terminal = {};
  // One line for a person: "serial0 is on /dev/pts/3". On the event loop's thread or in create().
  std::function<void(const std::string&)> notice;
};

struct MachineEnd {
  enum class Reason : uint8_t {
    powered_off,  // by the guest
    rebooted,     // by the guest, with MachineConfig::reboot off
    stopped,      // stop() was called
    failed,       // `message` says why
  };
  Reason reason = Reason::stopped;
  std::string message;
};

struct MachineStats {
  struct Vcpu {
    uint32_t index;
    std::vector<std::pair<ExitReason, uint64_t>> exits;  // those that happened
  };
  std::vector<Vcpu> vcpus;
  std::vector<std::pair<std::string, uint64_t>> devices;  // accesses that left the guest, most first
  uint64_t resets = 0;
  std::optional<BalloonStats> balloon;  // the newest there are; of a machine that has ended, the last
};

class Machine {
 public:
  // Builds the machine: memory, vCPUs, devices with their files open. `log` outlives it. Throws ConfigError
  // for values that make no sense, HostError for what the host refuses.
  static std::unique_ptr<Machine> create(MachineConfig config, Log& log, MachineHooks hooks = {});
  virtual ~Machine() = default;

  // Boots it and runs its event loop on this thread until it ends; once. Throws HostError if the kernel
  // cannot be loaded.
  virtual MachineEnd run() = 0;

  // For watching descriptors and posting work; its callbacks run inside run().
  virtual EventLoop& loop() = 0;

  // Thread-safe from here on.
  virtual void press_power_button() = 0;  // asks the guest to power off
  virtual void stop() = 0;                // ends run() without asking the guest
  virtual void reset() = 0;
  // pause() returns with every vCPU parked. A device that cannot go on (a full host disk) holds them as well
  // until it can, and hooks.notice says so. Not from the loop's own callbacks of another machine.
  virtual void pause() = 0;
  virtual void resume() = 0;
  // Gives a disk (0 is the first --disk) another size in bytes and tells the guest, which may go on using it.
  // Throws HostError: no such disk, the image cannot be resized, no space.
  virtual void resize_disk(unsigned index, uint64_t bytes) = 0;
  // Looks whether raw disks' files or devices have another size by now, and tells the guest of those that
  // have.
  virtual void rescan_disks() = 0;
  // Asks the guest to give up so many bytes of its memory (0: none), which then are the host's. Throws
  // HostError: there is no balloon (--balloon), or the guest has no more than that.
  virtual void set_balloon(uint64_t bytes) = 0;
  // Asks the guest how it fares for memory and waits for the answer, `patience` at most. Throws HostError:
  // there is no balloon. Not from the loop's callbacks: it waits.
  virtual BalloonStats balloon_stats(std::chrono::milliseconds patience) = 0;
  // The terminal on which the console is (--console stdio) has this size now.
  virtual void resize_terminal(uint16_t columns, uint16_t rows) = 0;
  virtual MachineStats stats() const = 0;
  // As planned; a machine that boots from a Flatcar disk looks into it anew at each reset.
  virtual const std::string& cmdline() const = 0;
};

}  // namespace minivmm
