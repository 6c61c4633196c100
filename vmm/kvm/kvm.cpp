#include "vmm/kvm/kvm.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "vmm/kvm/kvm_abi.h"

#include <cerrno>
#include <fstream>

#include "vmm/core/error.h"

namespace minivmm {

int kvm_ioctl(int fd, unsigned long request, const void* argument) {
  for (;;) {
    const int result = ::ioctl(fd, request, argument);
    if (result >= 0 || errno != EINTR) return result;
  }
}

std::string_view to_string(KvmKind kind) {
  switch (kind) {
    case KvmKind::vmx: return "Intel VMX";
    case KvmKind::svm: return "AMD SVM";
    case KvmKind::software: return "software (no VMX or SVM: guest kernel code is interpreted)";
  }
  return "unknown";
}

KvmKind detect_kvm_kind() {
  if (::access("/sys/module/kvm_pvm", F_OK) == 0) return KvmKind::software;
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("flags")) continue;
    line += ' ';
    if (line.find(" vmx ") != std::string::npos) return KvmKind::vmx;
    if (line.find(" svm ") != std::string::npos) return KvmKind::svm;
    break;
  }
  return KvmKind::software;
}

std::vector<KvmCapability> kvm_capabilities() {
#define MV_CAP(name, why, required) {name, #name, why, required}
  return {
      MV_CAP(KVM_CAP_USER_MEMORY, "guest RAM", true),
      MV_CAP(KVM_CAP_SET_TSS_ADDR, "real mode on Intel", true),
      MV_CAP(KVM_CAP_EXT_CPUID, "CPU identification", true),
      MV_CAP(KVM_CAP_IRQCHIP, "interrupt controllers", true),
      MV_CAP(KVM_CAP_IRQ_ROUTING, "interrupt routing", true),
      MV_CAP(KVM_CAP_IRQFD, "interrupts from other threads", true),
      MV_CAP(KVM_CAP_IOEVENTFD, "virtqueue doorbells", true),
      MV_CAP(KVM_CAP_SIGNAL_MSI, "message-signalled interrupts", true),
      MV_CAP(KVM_CAP_MP_STATE, "SMP start-up", true),
      MV_CAP(KVM_CAP_VCPU_EVENTS, "reset and snapshots", true),
      MV_CAP(KVM_CAP_IMMEDIATE_EXIT, "pausing a vCPU", true),
      MV_CAP(KVM_CAP_XSAVE, "FPU state", true),
      MV_CAP(KVM_CAP_TSC_DEADLINE_TIMER, "the guest's timer", false),
      MV_CAP(KVM_CAP_ADJUST_CLOCK, "kvm-clock", false),
      MV_CAP(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "live snapshots and migration", false),
      MV_CAP(KVM_CAP_XSAVE2, "large FPU state (AMX)", false),
      MV_CAP(KVM_CAP_X2APIC_API, "x2APIC", false),
  };
#undef MV_CAP
}

Kvm::Kvm() : fd_(::open("/dev/kvm", O_RDWR | O_CLOEXEC)) {
  if (!fd_) {
    switch (errno) {
      case ENOENT:
        throw_errno("open /dev/kvm",
                    "load the module (modprobe kvm_intel or kvm_amd) and see that virtualization is on in "
                    "the firmware");
      case EACCES:
      case EPERM:
        throw_errno("open /dev/kvm", "join its group (sudo usermod -aG kvm $USER, then log in again)");
      default: throw_errno("open /dev/kvm", "'minivmm doctor' looks closer");
    }
  }
  const int version = kvm_ioctl(fd_.get(), KVM_GET_API_VERSION);
  if (version != KVM_API_VERSION) {
    throw HostError(ENOTSUP, fmt::format("/dev/kvm speaks API version {}, not {}; it is not a usable KVM",
                                         version, KVM_API_VERSION));
  }
  for (const KvmCapability& capability : kvm_capabilities()) {
    if (capability.required && check(capability.number) <= 0) {
      throw HostError(ENOTSUP, fmt::format("this host's KVM lacks {} ({}); a newer kernel has it",
                                           capability.name, capability.why));
    }
  }
  const int size = kvm_ioctl(fd_.get(), KVM_GET_VCPU_MMAP_SIZE);
  if (size < static_cast<int>(sizeof(kvm_run))) throw_errno("ask KVM for the size of a vCPU's run area");
  run_size_ = static_cast<size_t>(size);
}

int Kvm::check(long capability) const {
  return ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, capability);
}

uint32_t Kvm::max_vcpus() const {
  const int most = check(KVM_CAP_MAX_VCPUS);
  return most > 0 ? static_cast<uint32_t>(most) : 4;  // api.rst, 4.7: "assume 4" where it is not told
}

std::vector<uint32_t> Kvm::msr_indices() const {
  constexpr uint32_t kMost = 1024;
  std::vector<uint32_t> buffer(1 + kMost);
  buffer[0] = kMost;  // struct kvm_msr_list { __u32 nmsrs; __u32 indices[]; }
  if (kvm_ioctl(fd_.get(), KVM_GET_MSR_INDEX_LIST, buffer.data()) < 0) throw_errno("list KVM's MSRs");
  return {buffer.begin() + 1, buffer.begin() + 1 + buffer[0]};
}

}  // namespace minivmm
