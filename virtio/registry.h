// Every virtio device type there is. The command line, the machine and the conformance tests iterate this
// list: a new type is one file pair under virtio/device and one line in registry.cpp.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "virtio/virtio_device.h"
#include "vmm/core/event_loop.h"
#include "vmm/core/log.h"
#include "vmm/core/stall_sink.h"

namespace minivmm {

class DiskSet;
class SerialBackend;

struct CreateContext {
  unsigned index = 0;              // of this type in the machine: the state is named "virtio-blk.<index>"
  unsigned cpus = 1;               // for the number of queues where the user does not say
  uint64_t memory = 0;             // bytes of RAM, for what makes no sense past it; 0: not known
  uint64_t host_page = kPageSize;  // GuestMemory::host_page()
  Log& log;
  TimeSource& time;
  DiskSet* disks = nullptr;       // what has been opened already; null: nothing has
  StallSink* stalls = nullptr;    // null: nobody can hold the guest
  std::string_view machine = {};  // its identity among this user's machines, for addresses
  // Makes what a console port is on the host, from the part of its spec that says where ("pty"). Null: there
  // is nothing but "null".
  std::function<std::unique_ptr<SerialBackend>(const std::string& where)> serial = nullptr;
};

struct VirtioDeviceType {
  std::string_view name;          // "blk"
  std::string_view option;        // "--disk"
  std::string_view metavar;       // "PATH[,key=value…]"
  std::string_view help;          // one sentence
  bool repeatable;                // more than one in a machine
  std::string_view default_spec;  // used when the option is not given; empty: then there is none
  // `spec` is the option's value. Null: the spec says there shall be none ("off"). Throws ConfigError for a
  // spec that makes no sense, HostError for what the host refuses.
  std::unique_ptr<VirtioDevice> (*create)(std::string_view spec, const CreateContext&);
  // For tests: a spec that works anywhere, with what it needs made in `folder`. Null: none does.
  std::string (*example_spec)(const std::filesystem::path& folder);
  std::string_view absent_spec = "off";  // the spec that says there shall be none; empty: no spec does
  // Why this host cannot give a machine `default_spec`, in one line; empty: it can. Null: every host can.
  std::string (*default_missing)() = nullptr;
  std::string (*full_help)() = nullptr;  // for --help instead of `help`, where it has to be put together
  // Whether a spec shares one device with all others of its machine that do: create() gets them joined by
  // newlines, in their order. Null: each spec makes a device. May throw ConfigError.
  bool (*joins)(std::string_view spec) = nullptr;
  // Throws ConfigError where create() would, for a spec that makes no sense on any host. `memory`: bytes of
  // RAM. Null: create() alone knows.
  void (*check)(std::string_view spec, uint64_t memory) = nullptr;
  // Whether a device of that spec shares the guest's memory with another process; it is made so that it can
  // be. Null: none does. Throws ConfigError for a spec that makes no sense.
  bool (*shares_memory)(std::string_view spec) = nullptr;
};

std::span<const VirtioDeviceType> virtio_device_types();

}  // namespace minivmm
