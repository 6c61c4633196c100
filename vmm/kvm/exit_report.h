// What to tell a person when KVM cannot run a guest any further.
#pragma once

#include <string>

#include "vmm/kvm/vm.h"

struct kvm_run;

namespace minivmm {

// Explains the exit in `run` of the vCPU behind `vcpu_fd`: its name, registers, and the code bytes at RIP.
std::string explain_exit(const Vm& vm, int vcpu_fd, const kvm_run& run);

}  // namespace minivmm
