#include "vmm/kvm/exit_report.h"

#include <fmt/format.h>
#include "vmm/kvm/kvm_abi.h"

#include <array>

namespace minivmm {

namespace {

const char* exit_name(uint32_t reason) {
  switch (reason) {
    case KVM_EXIT_UNKNOWN: return "KVM_EXIT_UNKNOWN";
    case KVM_EXIT_EXCEPTION: return "KVM_EXIT_EXCEPTION";
    case KVM_EXIT_DEBUG: return "KVM_EXIT_DEBUG";
    case KVM_EXIT_HLT: return "KVM_EXIT_HLT";
    case KVM_EXIT_FAIL_ENTRY: return "KVM_EXIT_FAIL_ENTRY";
    case KVM_EXIT_INTERNAL_ERROR: return "KVM_EXIT_INTERNAL_ERROR";
    case KVM_EXIT_SHUTDOWN: return "KVM_EXIT_SHUTDOWN";
    default: return "an exit unknown to minivmm";
  }
}

std::string reason_text(const kvm_run& run) {
  switch (run.exit_reason) {
    case KVM_EXIT_UNKNOWN: return fmt::format("hardware exit reason {:#x}", run.hw.hardware_exit_reason);
    case KVM_EXIT_FAIL_ENTRY:
      return fmt::format("the CPU refused to enter the guest, hardware reason {:#x}",
                         run.fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_INTERNAL_ERROR:
      switch (run.internal.suberror) {
        case KVM_INTERNAL_ERROR_EMULATION:
          return detect_kvm_kind() == KvmKind::software
                     ? "suberror 1: this host has no VMX or SVM, so its KVM interprets the guest's kernel, "
                       "and its "
                       "interpreter lacks the instruction at RIP; a host with virtualization hardware runs it"
                     : "suberror 1: KVM's emulator lacks the instruction at RIP (or the guest runs code from "
                       "a device)";
        case KVM_INTERNAL_ERROR_SIMUL_EX: return "suberror 2: two exceptions at once";
        case KVM_INTERNAL_ERROR_DELIVERY_EV: return "suberror 3: an exit while delivering an event";
        default: return fmt::format("suberror {}", run.internal.suberror);
      }
    default: return fmt::format("exit reason {}", run.exit_reason);
  }
}

std::string code_at(const Vm& vm, int vcpu_fd, uint64_t linear) {
  std::string text;
  for (uint64_t i = 0; i < 15; ++i) {  // the longest instruction
    kvm_translation translation{};
    translation.linear_address = linear + i;
    if (kvm_ioctl(vcpu_fd, KVM_TRANSLATE, &translation) < 0 || translation.valid == 0) break;
    const auto byte = vm.memory().load<uint8_t>(Gpa{translation.physical_address});
    if (!byte) break;
    text += fmt::format(" {:02x}", *byte);
  }
  return text.empty() ? " (not in RAM)" : text;
}

}  // namespace

std::string explain_exit(const Vm& vm, int vcpu_fd, const kvm_run& run) {
  kvm_regs r{};
  kvm_sregs s{};
  std::string text = fmt::format("{}: {}", exit_name(run.exit_reason), reason_text(run));
  if (kvm_ioctl(vcpu_fd, KVM_GET_REGS, &r) < 0 || kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s) < 0) return text;
  text += fmt::format("\n  rip {:016x} code{}", r.rip, code_at(vm, vcpu_fd, s.cs.base + r.rip));
  text += fmt::format("\n  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx);
  text += fmt::format("\n  rsi {:016x} rdi {:016x} rsp {:016x} rbp {:016x}", r.rsi, r.rdi, r.rsp, r.rbp);
  text += fmt::format("\n  r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}", r.r8, r.r9, r.r10, r.r11);
  text += fmt::format("\n  r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}", r.r12, r.r13, r.r14, r.r15);
  text +=
      fmt::format("\n  cr0 {:08x} cr2 {:016x} cr3 {:016x} cr4 {:08x} efer {:x} rflags {:x} cs {:x} base {:x}",
                  s.cr0, s.cr2, s.cr3, s.cr4, s.efer, r.rflags, s.cs.selector, s.cs.base);
  return text;
}

}  // namespace minivmm
