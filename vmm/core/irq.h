// Wires out of and into a device. A device holds these, never an interrupt number or a guest address.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "vmm/core/guest_memory.h"

namespace minivmm {

// A level-capable interrupt wire. Thread-safe. Edge users call pulse().
class IrqLine {
 public:
  virtual ~IrqLine() = default;
  virtual void set(bool high) = 0;
  virtual void pulse() {
    set(true);
    set(false);
  }
};

// One message-signalled interrupt as its PCI table entry has it (PCI 3.0, 6.8.2).
struct MsiMessage {
  uint64_t address = 0;
  uint32_t data = 0;
  bool operator==(const MsiMessage&) const = default;
};

// One MSI-X vector's way to the guest: an irqfd and its GSI route. Thread-safe.
class MsiRoute {
 public:
  virtual ~MsiRoute() = default;
  virtual Result<void> route(const MsiMessage&) = 0;  // where the next trigger() goes
  virtual void trigger() = 0;
  // From here on a signal of this eventfd does what trigger() does, without this process. Errc::no_space: the
  // host cannot; nothing has changed. After route(); the route outlives it, or unbinds it.
  virtual Result<void> bind(int eventfd) = 0;
  virtual void unbind(int eventfd) = 0;  // what was signalled before has been delivered when it returns
};

class MsiSink {
 public:
  virtual ~MsiSink() = default;
  virtual Result<std::unique_ptr<MsiRoute>> allocate() = 0;  // Errc::no_space when GSIs run out
};

// A guest write that becomes an eventfd signal without leaving the kernel (ioeventfd).
struct Doorbell {
  uint64_t offset;                // in bytes from the region's start
  uint8_t width;                  // 0: any width, the value ignored; else 1, 2, 4 or 8
  std::optional<uint32_t> match;  // only writes of this value, where width is not 0
  int fd;                         // an eventfd
};

// Attached when a region gets its place in the address space, detached when it moves.
class DoorbellSink {
 public:
  virtual ~DoorbellSink() = default;
  virtual Result<void> attach(Gpa region, const Doorbell&) = 0;
  virtual void detach(Gpa region, const Doorbell&) = 0;
};

}  // namespace minivmm
