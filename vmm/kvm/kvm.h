// /dev/kvm itself: what it offers, and what we need of it. Source: Linux, Documentation/virt/kvm/api.rst.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/core/fd.h"

namespace minivmm {

// What stands behind /dev/kvm, as far as it can be told from outside.
enum class KvmKind : uint8_t {
  vmx,       // Intel VT-x
  svm,       // AMD-V
  software,  // no virtualization hardware: ring 0 is interpreted (kvm_pvm and the like)
};
KvmKind detect_kvm_kind();
std::string_view to_string(KvmKind);

struct KvmCapability {
  long number;  // KVM_CAP_*
  const char* name;
  const char* why;  // what we use it for
  bool required;
};
std::vector<KvmCapability> kvm_capabilities();

class Kvm {
 public:
  // Throws HostError that says whether the device is missing, forbidden or too old, and what mends it. A
  // missing required capability is named.
  Kvm();

  int fd() const { return fd_.get(); }
  int check(long capability) const;  // KVM_CHECK_EXTENSION: 0 means no
  uint32_t max_vcpus() const;
  size_t run_size() const { return run_size_; }  // bytes of a vCPU's shared kvm_run mapping
  std::vector<uint32_t> msr_indices() const;     // every MSR KVM saves

 private:
  UniqueFd fd_;
  size_t run_size_ = 0;
};

// ioctl(2) restarted on EINTR; returns its result, errno set as usual.
int kvm_ioctl(int fd, unsigned long request, const void* argument = nullptr);

}  // namespace minivmm
