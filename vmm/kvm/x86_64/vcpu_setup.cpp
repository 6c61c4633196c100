// What differs by CPU family in making, starting and resetting a vCPU.
#include <fmt/format.h>
#include <sys/mman.h>
#include "vmm/kvm/kvm_abi.h"

#include <array>
#include <cstring>
#include <vector>

#include "vmm/core/error.h"
#include "vmm/kvm/vcpu.h"

namespace minivmm {

namespace {

constexpr uint32_t kMsrTsc = 0x10;
constexpr uint32_t kMsrMiscEnable = 0x1a0;
constexpr uint64_t kMiscEnableFastStrings = 1;
constexpr uint32_t kMsrMtrrDefType = 0x2ff;
constexpr uint64_t kMtrrEnabledWriteBack = 0x806;  // MTRRs on, fixed ranges off, default type write-back

constexpr size_t kLapicLint0 = 0x350;  // register offsets, SDM vol. 3, table 11-1
constexpr size_t kLapicLint1 = 0x360;
constexpr uint32_t kDeliveryNmi = 4 << 8;
constexpr uint32_t kDeliveryExtInt = 7 << 8;

// A buffer for KVM_GET_MSRS and KVM_SET_MSRS: struct kvm_msrs { nmsrs, pad, entries[] }.
class MsrBuffer {
 public:
  void add(uint32_t index, uint64_t data) {
    kvm_msr_entry entry{};
    entry.index = index;
    entry.data = data;
    entries_.push_back(entry);
  }
  bool empty() const { return entries_.empty(); }
  std::vector<kvm_msr_entry>& entries() { return entries_; }
  // KVM stops at the first MSR it cannot do and returns how many it did.
  int call(int fd, unsigned long request, size_t from, size_t count) {
    std::vector<uint64_t> raw((sizeof(kvm_msrs) + count * sizeof(kvm_msr_entry)) / 8);
    auto* header = reinterpret_cast<kvm_msrs*>(raw.data());
    header->nmsrs = static_cast<uint32_t>(count);
    std::memcpy(header->entries, &entries_[from], count * sizeof(kvm_msr_entry));
    const int done = kvm_ioctl(fd, request, raw.data());
    if (done > 0)
      std::memcpy(&entries_[from], header->entries, static_cast<size_t>(done) * sizeof(kvm_msr_entry));
    return done;
  }
  // Reads every entry, dropping those that this host lists but cannot read.
  void read_all(int fd) {
    size_t at = 0;
    while (at < entries_.size()) {
      const int done = call(fd, KVM_GET_MSRS, at, entries_.size() - at);
      if (done < 0) return entries_.clear();
      at += static_cast<size_t>(done);
      if (at < entries_.size()) entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
  // Writes every entry, passing over those that cannot be written (read-only ones are in KVM's list too).
  void write_all(int fd) {
    size_t at = 0;
    while (at < entries_.size()) {
      const int done = call(fd, KVM_SET_MSRS, at, entries_.size() - at);
      if (done < 0) return;
      at += static_cast<size_t>(done) + 1;
    }
  }

 private:
  std::vector<kvm_msr_entry> entries_;
};

kvm_segment to_kvm(const SegmentState& from) {
  kvm_segment to{};
  to.base = from.base;
  to.limit = from.limit;
  to.selector = from.selector;
  to.type = from.type & 0xf;
  to.present = from.present ? 1 : 0;
  to.dpl = from.dpl & 3;
  to.db = from.default_big ? 1 : 0;
  to.s = from.code_or_data ? 1 : 0;
  to.l = from.long_mode ? 1 : 0;
  to.g = from.granular ? 1 : 0;
  return to;
}

void need(int result, uint32_t index, const char* what) {
  if (result < 0) throw_errno(fmt::format("set {} of vCPU {}", what, index));
}

}  // namespace

struct Vcpu::Pristine {
  kvm_regs regs;
  kvm_sregs sregs;
  kvm_lapic_state lapic;
  kvm_mp_state mp_state;
  kvm_vcpu_events events;
  kvm_debugregs debug;
  MsrBuffer msrs;
};

Vcpu::Vcpu(Vm& vm, uint32_t index, const CpuidTable& cpuid, const Bus& pio, const Bus& mmio,
           VcpuEvents& events)
    : vm_(vm),
      cpuid_(cpuid),
      index_(index),
      events_(events),
      pio_(pio),
      mmio_(mmio),
      pristine_(nullptr, [](Pristine* p) { delete p; }) {
  fd_ = UniqueFd(kvm_ioctl(vm.fd(), KVM_CREATE_VCPU, reinterpret_cast<const void*>(uintptr_t{index})));
  if (!fd_) throw_errno(fmt::format("create vCPU {}", index));
  run_mapping_ = Mapping::map(vm.kvm().run_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0,
                              "a vCPU's run area");
  run_ = reinterpret_cast<kvm_run*>(run_mapping_.data());
  set_up();
}

void Vcpu::set_up() {
  const auto leaves = cpuid_.for_vcpu(index_);
  std::vector<uint64_t> buffer((sizeof(kvm_cpuid2) + leaves.size() * sizeof(kvm_cpuid_entry2)) / 8 + 1);
  auto* table = reinterpret_cast<kvm_cpuid2*>(buffer.data());
  for (const CpuidLeaf& leaf : leaves) {
    kvm_cpuid_entry2& e = table->entries[table->nent++];
    e.function = leaf.leaf;
    e.index = leaf.subleaf;
    e.flags = leaf.has_subleaves ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
    e.eax = leaf.eax;
    e.ebx = leaf.ebx;
    e.ecx = leaf.ecx;
    e.edx = leaf.edx;
  }
  need(kvm_ioctl(fd_.get(), KVM_SET_CPUID2, table), index_, "the CPUID table");

  // As firmware leaves it: PIC interrupts on LINT0, NMI on LINT1 (SDM vol. 3, 11.5.1). Setting it is also
  // what makes KVM enter this APIC into its map of IPI targets: without that an xAPIC IPI to it goes nowhere.
  kvm_lapic_state lapic{};
  need(kvm_ioctl(fd_.get(), KVM_GET_LAPIC, &lapic), index_, "the local APIC");
  const uint32_t lint0 = kDeliveryExtInt;
  const uint32_t lint1 = kDeliveryNmi;
  std::memcpy(&lapic.regs[kLapicLint0], &lint0, sizeof lint0);
  std::memcpy(&lapic.regs[kLapicLint1], &lint1, sizeof lint1);
  need(kvm_ioctl(fd_.get(), KVM_SET_LAPIC, &lapic), index_, "the local APIC");

  MsrBuffer msrs;
  msrs.add(kMsrMiscEnable, kMiscEnableFastStrings);
  msrs.add(kMsrMtrrDefType, kMtrrEnabledWriteBack);
  msrs.write_all(fd_.get());
}

void Vcpu::set_boot_state(const BootCpuState& boot) {
  kvm_sregs s{};
  need(kvm_ioctl(fd_.get(), KVM_GET_SREGS, &s), index_, "registers");
  s.cs = to_kvm(boot.cs);
  s.ds = s.es = s.fs = s.gs = s.ss = to_kvm(boot.data);
  s.tr = to_kvm(boot.tss);
  s.gdt.base = boot.gdt_base;
  s.gdt.limit = boot.gdt_limit;
  s.idt = {};
  s.cr0 = boot.cr0;
  s.cr3 = boot.cr3;
  s.cr4 = boot.cr4;
  s.efer = boot.efer;
  need(kvm_ioctl(fd_.get(), KVM_SET_SREGS, &s), index_, "control registers");
  kvm_regs r{};
  r.rflags = boot.rflags;
  r.rip = boot.rip;
  r.rsp = boot.rsp;
  r.rsi = boot.rsi;
  r.rbx = boot.rbx;
  need(kvm_ioctl(fd_.get(), KVM_SET_REGS, &r), index_, "registers");
}

void Vcpu::keep_pristine() {
  std::unique_ptr<Pristine, void (*)(Pristine*)> p(new Pristine{}, [](Pristine* x) { delete x; });
  need(kvm_ioctl(fd_.get(), KVM_GET_REGS, &p->regs), index_, "registers");
  need(kvm_ioctl(fd_.get(), KVM_GET_SREGS, &p->sregs), index_, "control registers");
  need(kvm_ioctl(fd_.get(), KVM_GET_LAPIC, &p->lapic), index_, "the local APIC");
  need(kvm_ioctl(fd_.get(), KVM_GET_MP_STATE, &p->mp_state), index_, "the run state");
  need(kvm_ioctl(fd_.get(), KVM_GET_VCPU_EVENTS, &p->events), index_, "pending events");
  need(kvm_ioctl(fd_.get(), KVM_GET_DEBUGREGS, &p->debug), index_, "debug registers");
  for (const uint32_t index : vm_.kvm().msr_indices()) {
    if (index != kMsrTsc) p->msrs.add(index, 0);
  }
  p->msrs.read_all(fd_.get());
  pristine_ = std::move(p);
}

void Vcpu::reset() {
  MV_CHECK(pristine_);
  Pristine& p = *pristine_;
  // INIT while SIPI is awaited would be lost: make it runnable first, the saved state comes back last.
  kvm_mp_state runnable{};
  runnable.mp_state = KVM_MP_STATE_RUNNABLE;
  need(kvm_ioctl(fd_.get(), KVM_SET_MP_STATE, &runnable), index_, "the run state");
  // Control registers before MSRs (EFER, APIC base), the local APIC before its deadline timer's MSR.
  need(kvm_ioctl(fd_.get(), KVM_SET_SREGS, &p.sregs), index_, "control registers");
  need(kvm_ioctl(fd_.get(), KVM_SET_REGS, &p.regs), index_, "registers");
  // The time stamp counter first, for the deadline timer counts in it. It must be written: after a triple
  // fault kvm_amd has cleared the offset that the CPU adds to it, but not the one that KVM reckons the
  // guest's timers with. 0 is what KVM keeps in step over all vCPUs.
  MsrBuffer tsc;
  tsc.add(kMsrTsc, 0);
  tsc.write_all(fd_.get());
  MsrBuffer msrs = p.msrs;
  msrs.write_all(fd_.get());
  need(kvm_ioctl(fd_.get(), KVM_SET_LAPIC, &p.lapic), index_, "the local APIC");
  need(kvm_ioctl(fd_.get(), KVM_SET_DEBUGREGS, &p.debug), index_, "debug registers");
  need(kvm_ioctl(fd_.get(), KVM_SET_VCPU_EVENTS, &p.events), index_, "pending events");
  kvm_fpu fpu{};
  fpu.fcw = 0x37f;  // as FNINIT leaves it (SDM vol. 1, 8.1.5)
  fpu.mxcsr = 0x1f80;
  need(kvm_ioctl(fd_.get(), KVM_SET_FPU, &fpu), index_, "the FPU");
  kvm_xcrs xcrs{};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = 1;                     // x87 alone
  kvm_ioctl(fd_.get(), KVM_SET_XCRS, &xcrs);  // where the host has XSAVE
  need(kvm_ioctl(fd_.get(), KVM_SET_MP_STATE, &p.mp_state), index_, "the run state");
}

}  // namespace minivmm
