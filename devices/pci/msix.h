// MSI-X of one function (PCI Local Bus 3.0, 6.8.2): the capability, and the vector table and pending bits as
// a BAR of their own. Routes are allocated when the guest first unmasks a vector, and changed only when what
// they carry changes: each costs a system call or more.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "vmm/core/device.h"
#include "vmm/core/irq.h"
#include "vmm/core/log.h"

namespace minivmm {

class PciFunction;

inline constexpr uint16_t kMsixMaxVectors = 2048;  // PCI 3.0, 6.8.2.3
inline constexpr uint16_t kMsixNoVector = 0xffff;  // virtio 1.2, 4.1.5.1.3: trigger() ignores it

// A member of the class derived from PciFunction. Thread-safe.
class Msix final : public IoDevice {
 public:
  // Adds the capability to `function` and makes itself its BAR number `bar` (memory, 32-bit), whose size is
  // bar_size(). `vectors`: 1 to kMsixMaxVectors. `sink` and `log` outlive it.
  Msix(PciFunction& function, unsigned bar, uint16_t vectors, MsiSink& sink, Log* log = nullptr);
  ~Msix() override;

  // Sends the vector's message, or notes it as pending while masked. Lost while the guest has MSI-X off, and
  // for vectors that do not exist. Never blocks: one uncontended lock and one eventfd write.
  void trigger(uint16_t vector);

  // From here on a signal of this eventfd sends the vector's message by itself while it can be sent; while it
  // cannot (masked, MSI-X off, no such vector) the eventfd stays signalled, for whoever then calls trigger().
  // It stays open until unbind(), which is idempotent.
  void bind(uint16_t vector, int eventfd);
  void unbind(uint16_t vector, int eventfd);

  uint16_t vectors() const { return count_; }
  bool enabled() const { return (control_.load(std::memory_order_relaxed) & kEnable) != 0; }
  static uint64_t bar_size(uint16_t vectors);  // bytes: the table in its first half, the PBA in its second

  std::string_view name() const override { return "msix"; }
  IoStatus read(uint64_t offset, std::span<std::byte> data) override;
  IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

  // Used by PciFunction; the message control register is part of the configuration space and committed first.
  struct SavedVector {
    MsiMessage message;
    bool masked = true;
    bool pending = false;
  };
  using Saved = std::vector<SavedVector>;
  void save(StateWriter&) const;
  Result<Saved> parse(const StateReader&) const;
  void commit(const Saved&);
  void reset();  // after the configuration space's

 private:
  static constexpr uint16_t kEnable = 0x8000;  // message control, PCI 3.0, 6.8.2.3
  static constexpr uint16_t kFunctionMask = 0x4000;

  // Each vector has its own lock, so queues do not wait for each other's eventfd writes, and after a guest's
  // write that masks a vector no message of it is sent any more.
  struct Vector {
    mutable std::mutex mutex;
    MsiMessage message;
    bool masked = true;  // PCI 3.0, 6.8.2.9
    bool pending = false;
    std::unique_ptr<MsiRoute> route;
    std::optional<MsiMessage> routed;  // what `route` sends now
    struct Call {
      int eventfd;
      bool bound;  // to `route`
    };
    std::vector<Call> calls;
  };

  void control_written();
  void settle(Vector&);  // with its mutex held: routes and delivers what may now be delivered
  void settle_message(Vector&);
  void settle_calls(Vector&);
  bool deliverable(const Vector&) const;
  uint32_t table_dword(uint64_t offset) const;
  void set_table_dword(uint64_t offset, uint32_t v);

  PciFunction& function_;
  MsiSink& sink_;
  Log* log_;
  uint16_t count_;
  uint8_t capability_ = 0;  // offset in the configuration space
  std::atomic<uint16_t> control_{0};
  std::unique_ptr<Vector[]> vectors_;
};

}  // namespace minivmm
