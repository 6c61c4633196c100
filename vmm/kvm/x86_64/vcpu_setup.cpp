// What differs by CPU family in making, starting and resetting a vCPU.
#include <fmt/format.h>
#include <linux/kvm.h>
#include <sys/mman.h>

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

constexpr uint64_t kCr0Pe = 1;
constexpr uint64_t kCr0Et = 1 << 4;
constexpr uint64_t kCr0Pg = uint64_t{1} << 31;
constexpr uint64_t kCr4Pae = 1 << 5;
constexpr uint64_t kCr4La57 = 1 << 12;
constexpr uint64_t kEferLme = 1 << 8;
constexpr uint64_t kEferLma = 1 << 10;

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

kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_mode) {
  kvm_segment segment{};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.s = 1;  // code or data
  segment.g = 1;
  segment.l = long_mode ? 1 : 0;
  segment.db = long_mode ? 0 : 1;
  return segment;
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

  MsrBuffer msrs;
  msrs.add(kMsrMiscEnable, kMiscEnableFastStrings);
  msrs.add(kMsrMtrrDefType, kMtrrEnabledWriteBack);
  msrs.write_all(fd_.get());
}

void Vcpu::set_boot_state(const BootCpuState& boot) {
  kvm_sregs s{};
  need(kvm_ioctl(fd_.get(), KVM_GET_SREGS, &s), index_, "registers");
  const bool long_mode = boot.mode != BootCpuState::Mode::protected32;
  s.cs = flat_segment(boot.code_selector, 0xb /* execute, read, accessed */, long_mode);
  s.ds = s.es = s.fs = s.gs = s.ss = flat_segment(boot.data_selector, 0x3 /* read, write, accessed */, false);
  s.gdt.base = boot.gdt_base;
  s.gdt.limit = boot.gdt_limit;
  s.idt = {};
  s.tr = {};
  s.tr.type = 0xb;  // busy 32-bit TSS, as VM entry demands
  s.tr.present = 1;
  s.tr.limit = 0x67;
  s.cr0 = kCr0Pe | kCr0Et;
  s.cr4 = 0;
  s.efer = 0;
  if (long_mode) {
    s.cr0 |= kCr0Pg;
    s.cr3 = boot.cr3;
    s.cr4 = kCr4Pae | (boot.mode == BootCpuState::Mode::long64_5level ? kCr4La57 : 0);
    s.efer = kEferLme | kEferLma;
  }
  need(kvm_ioctl(fd_.get(), KVM_SET_SREGS, &s), index_, "control registers");
  kvm_regs r{};
  r.rflags = 2;  // the bit that is always one
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
    if (index != kMsrTsc) p->msrs.add(index, 0);  // time goes on over a reset
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
