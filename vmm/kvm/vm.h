// One KVM virtual machine: memory slots, the in-kernel interrupt chips, interrupt routes, irqfds and
// ioeventfds.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "vmm/core/fd.h"
#include "vmm/core/guest_memory.h"
#include "vmm/core/irq.h"
#include "vmm/kvm/kvm.h"

namespace minivmm {

inline constexpr uint32_t kIoapicPins = 24;

class Vm final : public MsiSink, public DoorbellSink {
 public:
  struct Layout {      // where KVM may put what Intel's real mode needs: 4 pages the guest does not use
    Gpa identity_map;  // one page
    Gpa tss;           // three pages
  };
  // `kvm` and `memory` outlive it. Throws HostError.
  Vm(const Kvm& kvm, const GuestMemory& memory, const Layout& layout);

  int fd() const { return fd_.get(); }
  const Kvm& kvm() const { return kvm_; }
  const GuestMemory& memory() const { return memory_; }

  // An interrupt wire to IOAPIC pin (and, below 16, PIC line) `gsi`.
  std::unique_ptr<IrqLine> irq_line(uint32_t gsi);
  Result<std::unique_ptr<MsiRoute>> allocate() override;
  Result<void> attach(Gpa region, const Doorbell&) override;
  void detach(Gpa region, const Doorbell&) override;

  // Puts the interrupt chips back as they were before the guest first ran.
  void reset_irqchip();

 private:
  friend class KvmIrqLine;
  friend class KvmMsiRoute;
  struct Chips;

  void register_memory();
  void create_irqchip();
  Result<void> set_route(uint32_t gsi, const MsiMessage&);
  void drop_route(uint32_t gsi);
  bool push_routes();  // under routes_mutex_
  Result<void> ioeventfd(Gpa region, const Doorbell&, uint32_t flags);

  const Kvm& kvm_;
  const GuestMemory& memory_;
  UniqueFd fd_;
  std::unique_ptr<Chips, void (*)(Chips*)> pristine_;
  std::mutex routes_mutex_;
  std::map<uint32_t, MsiMessage> msi_routes_;  // by GSI, kIoapicPins and up
  std::vector<bool> gsi_used_;
};

}  // namespace minivmm
