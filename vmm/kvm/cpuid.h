// The CPUID tables of a machine's vCPUs: KVM's supported leaves, cut to the CPU model, with the topology of N
// single-threaded cores in one package. Sources: Intel SDM vol. 2A (CPUID), AMD APM vol. 3 appendix E,
// api.rst 4.46.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/kvm/cpu_model.h"
#include "vmm/kvm/kvm.h"

namespace minivmm {

struct CpuidLeaf {
  uint32_t leaf;
  uint32_t subleaf;
  bool has_subleaves;
  uint32_t eax, ebx, ecx, edx;
};

// What this host's CPU has; guests have as many at most.
unsigned host_physical_address_bits();

class CpuidTable {
 public:
  // The machine's table before a vCPU's own ids are filled in. Throws ConfigError where the host lacks what
  // the model needs, naming it.
  CpuidTable(const Kvm& kvm, const CpuModel& model, uint32_t cpus);
  // For tests: from given leaves instead of KVM's.
  CpuidTable(std::vector<CpuidLeaf> supported, const CpuModel& model, uint32_t cpus);

  std::vector<CpuidLeaf> for_vcpu(uint32_t apic_id) const;
  const CpuidLeaf* find(uint32_t leaf, uint32_t subleaf = 0) const;
  bool has(const CpuFeature&) const;
  bool has(std::string_view feature) const;
  unsigned physical_address_bits() const;

 private:
  void cut_to_model(const CpuModel& model);
  void set_topology();
  CpuidLeaf& at(uint32_t leaf, uint32_t subleaf, bool has_subleaves);
  void erase(uint32_t leaf);

  std::vector<CpuidLeaf> leaves_;
  uint32_t cpus_;
};

}  // namespace minivmm
