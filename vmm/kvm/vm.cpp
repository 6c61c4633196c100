#include "vmm/kvm/vm.h"

#include <fmt/format.h>
#include "vmm/kvm/kvm_abi.h"

#include <array>
#include <cerrno>
#include <cstring>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr uint32_t kMostGsis = 4096;  // KVM_MAX_IRQ_ROUTES on x86
constexpr uint32_t kPicLines = 16;

void irqfd(int vm, int fd, uint32_t gsi, bool assign) {
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(fd);
  request.gsi = gsi;
  request.flags = assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN;
  if (kvm_ioctl(vm, KVM_IRQFD, &request) < 0 && assign)
    throw_errno(fmt::format("bind an irqfd to GSI {}", gsi));
}

}  // namespace

struct Vm::Chips {
  std::array<kvm_irqchip, 3> chips;  // PIC master, PIC slave, IOAPIC
};

// A wire: levels go by KVM_IRQ_LINE; a pulse is one write to an irqfd, made when first asked for.
class KvmIrqLine final : public IrqLine {
 public:
  KvmIrqLine(int vm, uint32_t gsi) : vm_(vm), gsi_(gsi) {}
  KvmIrqLine(const KvmIrqLine&) = delete;
  KvmIrqLine& operator=(const KvmIrqLine&) = delete;
  ~KvmIrqLine() override {
    if (pulse_) irqfd(vm_, pulse_->fd(), gsi_, false);
  }
  void set(bool high) override {
    kvm_irq_level level{};
    level.irq = gsi_;
    level.level = high ? 1 : 0;
    kvm_ioctl(vm_, KVM_IRQ_LINE, &level);
  }
  void pulse() override {
    std::call_once(once_, [this] {
      auto event = std::make_unique<EventFd>();
      irqfd(vm_, event->fd(), gsi_, true);
      pulse_ = std::move(event);
    });
    pulse_->signal();
  }

 private:
  int vm_;
  uint32_t gsi_;
  std::once_flag once_;
  std::unique_ptr<EventFd> pulse_;
};

class KvmMsiRoute final : public MsiRoute {
 public:
  KvmMsiRoute(Vm& vm, uint32_t gsi) : vm_(vm), gsi_(gsi) {}
  KvmMsiRoute(const KvmMsiRoute&) = delete;
  KvmMsiRoute& operator=(const KvmMsiRoute&) = delete;
  ~KvmMsiRoute() override {
    for (const int eventfd : foreign_) irqfd(vm_.fd(), eventfd, gsi_, false);
    if (bound_) irqfd(vm_.fd(), event_.fd(), gsi_, false);
    vm_.drop_route(gsi_);
  }
  Result<void> route(const MsiMessage& message) override {
    auto done = vm_.set_route(gsi_, message);
    if (done && !bound_) {
      try {
        irqfd(vm_.fd(), event_.fd(), gsi_, true);
        bound_ = true;
      } catch (const HostError&) {
        return fail(Errc::no_space, "KVM has no irqfd left");
      }
    }
    return done;
  }
  void trigger() override { event_.signal(); }
  Result<void> bind(int eventfd) override {
    try {
      irqfd(vm_.fd(), eventfd, gsi_, true);
    } catch (const HostError&) {
      return fail(Errc::no_space, "KVM has no irqfd left");
    }
    foreign_.push_back(eventfd);
    return {};
  }
  void unbind(int eventfd) override {
    if (std::erase(foreign_, eventfd) != 0) irqfd(vm_.fd(), eventfd, gsi_, false);
  }

 private:
  Vm& vm_;
  uint32_t gsi_;
  EventFd event_;
  bool bound_ = false;  // routed for the first time; route(), bind() and unbind() come one at a time
  std::vector<int> foreign_;
};

Vm::Vm(const Kvm& kvm, const GuestMemory& memory, const Layout& layout)
    : kvm_(kvm), memory_(memory), pristine_(nullptr, [](Chips* c) { delete c; }) {
  fd_ = UniqueFd(kvm_ioctl(kvm.fd(), KVM_CREATE_VM));
  if (!fd_)
    throw_errno("create a virtual machine with KVM", "another hypervisor may hold the CPU's virtualization");
  const uint64_t identity_map = value(layout.identity_map);
  if (kvm_ioctl(fd_.get(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0)
    throw_errno("place KVM's identity map");
  if (kvm_ioctl(fd_.get(), KVM_SET_TSS_ADDR, reinterpret_cast<const void*>(value(layout.tss))) < 0) {
    throw_errno("place KVM's TSS");
  }
  // Slots before the interrupt chips: a slot's registration waits for the SRCU grace period that theirs
  // begins, which takes milliseconds.
  register_memory();
  create_irqchip();
}

void Vm::register_memory() {
  uint32_t slot = 0;
  for (const GuestMemory::Region& region : memory_.regions()) {
    kvm_userspace_memory_region request{};
    request.slot = slot++;
    request.guest_phys_addr = value(region.base);
    request.memory_size = region.size;
    request.userspace_addr = reinterpret_cast<uint64_t>(region.host);
    if (kvm_ioctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &request) < 0) {
      throw_errno(
          fmt::format("give KVM {} MiB of guest memory at {:#x}", region.size >> 20, value(region.base)),
          "give the guest less with --memory");
    }
  }
}

void Vm::create_irqchip() {
  if (kvm_ioctl(fd_.get(), KVM_CREATE_IRQCHIP) < 0) throw_errno("create KVM's interrupt chips");
  gsi_used_.assign(kMostGsis, false);
  for (uint32_t gsi = 0; gsi < kIoapicPins; ++gsi) gsi_used_[gsi] = true;
  auto chips = std::make_unique<Chips>();
  for (uint32_t i = 0; i < chips->chips.size(); ++i) {
    chips->chips[i] = {};
    chips->chips[i].chip_id = i;  // KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE, _IOAPIC
    if (kvm_ioctl(fd_.get(), KVM_GET_IRQCHIP, &chips->chips[i]) < 0)
      throw_errno("read KVM's interrupt chips");
  }
  pristine_.reset(chips.release());
  // KVM's own default routes, which push_routes() repeats, serve until the first MSI: line N to IOAPIC pin N
  // and, below 16, to the PIC.
}

void Vm::reset_irqchip() {
  for (const kvm_irqchip& chip : pristine_->chips) {
    if (kvm_ioctl(fd_.get(), KVM_SET_IRQCHIP, &chip) < 0) throw_errno("reset KVM's interrupt chips");
  }
}

std::unique_ptr<IrqLine> Vm::irq_line(uint32_t gsi) {
  MV_CHECK(gsi < kIoapicPins);
  return std::make_unique<KvmIrqLine>(fd_.get(), gsi);
}

Result<std::unique_ptr<MsiRoute>> Vm::allocate() {
  const std::scoped_lock lock(routes_mutex_);
  for (uint32_t gsi = kIoapicPins; gsi < kMostGsis; ++gsi) {
    if (gsi_used_[gsi]) continue;
    gsi_used_[gsi] = true;
    return std::make_unique<KvmMsiRoute>(*this, gsi);
  }
  return fail(Errc::no_space, "no interrupt route is left");
}

Result<void> Vm::set_route(uint32_t gsi, const MsiMessage& message) {
  const std::scoped_lock lock(routes_mutex_);
  const auto [entry, is_new] = msi_routes_.try_emplace(gsi, message);
  if (!is_new && entry->second == message) return {};
  entry->second = message;
  if (!push_routes()) return fail(Errc::invalid, "KVM refuses the interrupt message");
  return {};
}

void Vm::drop_route(uint32_t gsi) {
  const std::scoped_lock lock(routes_mutex_);
  gsi_used_[gsi] = false;
  msi_routes_.erase(gsi);  // stays in KVM until the next push: nothing can trigger it any more
}

bool Vm::push_routes() {
  const size_t count = kPicLines + kIoapicPins + msi_routes_.size();
  std::vector<uint64_t> buffer((sizeof(kvm_irq_routing) + count * sizeof(kvm_irq_routing_entry) + 7) / 8);
  auto* table = reinterpret_cast<kvm_irq_routing*>(buffer.data());
  auto add = [table](uint32_t gsi, uint32_t type) -> kvm_irq_routing_entry& {
    kvm_irq_routing_entry& entry = table->entries[table->nr++];
    entry.gsi = gsi;
    entry.type = type;
    return entry;
  };
  for (uint32_t line = 0; line < kPicLines; ++line) {
    auto& entry = add(line, KVM_IRQ_ROUTING_IRQCHIP);
    entry.u.irqchip.irqchip = line < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
    entry.u.irqchip.pin = line % 8;
  }
  for (uint32_t line = 0; line < kIoapicPins; ++line) {
    auto& entry = add(line, KVM_IRQ_ROUTING_IRQCHIP);
    entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
    entry.u.irqchip.pin = line;
  }
  for (const auto& [gsi, message] : msi_routes_) {
    auto& entry = add(gsi, KVM_IRQ_ROUTING_MSI);
    entry.u.msi.address_lo = static_cast<uint32_t>(message.address);
    entry.u.msi.address_hi = static_cast<uint32_t>(message.address >> 32);
    entry.u.msi.data = message.data;
  }
  return kvm_ioctl(fd_.get(), KVM_SET_GSI_ROUTING, table) >= 0;
}

Result<void> Vm::ioeventfd(Gpa region, const Doorbell& bell, uint32_t flags) {
  kvm_ioeventfd request{};
  request.addr = value(region) + bell.offset;
  request.len = bell.width;
  request.fd = bell.fd;
  request.flags = flags;
  if (bell.match && bell.width != 0) {
    request.datamatch = *bell.match;
    request.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
  }
  if (kvm_ioctl(fd_.get(), KVM_IOEVENTFD, &request) < 0)
    return fail(Errc::invalid, "KVM refuses the doorbell");
  return {};
}

Result<void> Vm::attach(Gpa region, const Doorbell& bell) {
  return ioeventfd(region, bell, 0);
}
void Vm::detach(Gpa region, const Doorbell& bell) {
  [[maybe_unused]] const auto done = ioeventfd(region, bell, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

}  // namespace minivmm
