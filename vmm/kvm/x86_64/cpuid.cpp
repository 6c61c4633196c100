#include "vmm/kvm/cpuid.h"

#include <cpuid.h>
#include <fmt/format.h>
#include "vmm/kvm/kvm_abi.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>
#include <utility>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

// What each level adds to the baseline every x86-64 CPU has (psABI, table 3.1).
constexpr std::array kV2 = {"pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "cx16", "lahf_lm"};
constexpr std::array kV3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"};
// Shown with every model: the baseline, and what system software needs or gains from without applications
// noticing.
constexpr std::array kSystem = {"fpu",          "vme",        "de",
                                "pse",          "tsc",        "msr",
                                "pae",          "mce",        "cx8",
                                "apic",         "sep",        "mtrr",
                                "pge",          "mca",        "cmov",
                                "pat",          "pse36",      "clflush",
                                "mmx",          "fxsr",       "sse",
                                "sse2",         "ht",         "syscall",
                                "nx",           "lm",         "pdpe1gb",
                                "rdtscp",       "x2apic",     "tsc_deadline_timer",
                                "hypervisor",   "arat",       "tsc_adjust",
                                "constant_tsc", "spec_ctrl",  "stibp",
                                "ssbd",         "md_clear",   "arch_capabilities",
                                "ibpb",         "cr8_legacy", "smep",
                                "smap",         "umip",       "topoext"};

constexpr uint32_t kFeatureLeaves[][2] = {{1, 0}, {7, 0}, {7, 1}, {0xd, 1}, {0x80000001, 0}};

uint32_t& reg(CpuidLeaf& leaf, CpuFeature::Register r) {
  switch (r) {
    case CpuFeature::Register::eax: return leaf.eax;
    case CpuFeature::Register::ebx: return leaf.ebx;
    case CpuFeature::Register::ecx: return leaf.ecx;
    case CpuFeature::Register::edx: break;
  }
  return leaf.edx;
}

std::vector<CpuidLeaf> supported_leaves(const Kvm& kvm) {
  constexpr uint32_t kMost = 256;
  std::vector<uint64_t> buffer((sizeof(kvm_cpuid2) + kMost * sizeof(kvm_cpuid_entry2)) / 8 + 1);
  auto* table = reinterpret_cast<kvm_cpuid2*>(buffer.data());
  table->nent = kMost;
  if (kvm_ioctl(kvm.fd(), KVM_GET_SUPPORTED_CPUID, table) < 0) throw_errno("ask KVM for its CPU features");
  std::vector<CpuidLeaf> leaves;
  for (uint32_t i = 0; i < table->nent; ++i) {
    const kvm_cpuid_entry2& e = table->entries[i];
    leaves.push_back(
        {e.function, e.index, (e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0, e.eax, e.ebx, e.ecx, e.edx});
  }
  return leaves;
}

// The in-kernel local APIC gives the guest this timer, but KVM leaves the bit for us to set (api.rst, 4.46).
void offer_tsc_deadline(const Kvm& kvm, std::vector<CpuidLeaf>& leaves) {
  if (kvm.check(KVM_CAP_TSC_DEADLINE_TIMER) <= 0) return;
  for (CpuidLeaf& leaf : leaves) {
    if (leaf.leaf == 1) leaf.ecx |= 1U << 24;
  }
}

}  // namespace

unsigned host_physical_address_bits() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(0x80000008, &eax, &ebx, &ecx, &edx) != 0 ? eax & 0xff : 36;
}

CpuidTable::CpuidTable(const Kvm& kvm, const CpuModel& model, uint32_t cpus)
    : CpuidTable(
          [&] {
            auto leaves = supported_leaves(kvm);
            offer_tsc_deadline(kvm, leaves);
            return leaves;
          }(),
          model, cpus) {}

CpuidTable::CpuidTable(std::vector<CpuidLeaf> supported, const CpuModel& model, uint32_t cpus)
    : leaves_(std::move(supported)), cpus_(cpus) {
  at(1, 0, false).ecx |= 1U << 31;  // a hypervisor is present
  cut_to_model(model);
  set_topology();
}

const CpuidLeaf* CpuidTable::find(uint32_t leaf, uint32_t subleaf) const {
  const auto found = std::ranges::find_if(leaves_, [&](const CpuidLeaf& l) {
    return l.leaf == leaf && (!l.has_subleaves || l.subleaf == subleaf);
  });
  return found == leaves_.end() ? nullptr : &*found;
}

bool CpuidTable::has(const CpuFeature& feature) const {
  const CpuidLeaf* leaf = find(feature.leaf, feature.subleaf);
  if (leaf == nullptr) return false;
  CpuidLeaf copy = *leaf;
  return ((reg(copy, feature.reg) >> feature.bit) & 1) != 0;
}

bool CpuidTable::has(std::string_view feature) const {
  const CpuFeature* known = find_cpu_feature(feature);
  MV_CHECK(known != nullptr);
  return has(*known);
}

unsigned CpuidTable::physical_address_bits() const {
  const CpuidLeaf* leaf = find(0x80000008);
  return leaf == nullptr ? 36 : leaf->eax & 0xff;  // SDM: 36 where the leaf is missing
}

CpuidLeaf& CpuidTable::at(uint32_t leaf, uint32_t subleaf, bool has_subleaves) {
  const auto found = std::ranges::find_if(leaves_, [&](const CpuidLeaf& l) {
    return l.leaf == leaf && (!has_subleaves || l.subleaf == subleaf);
  });
  if (found != leaves_.end()) return *found;
  return leaves_.emplace_back(CpuidLeaf{leaf, subleaf, has_subleaves, 0, 0, 0, 0});
}

void CpuidTable::erase(uint32_t leaf) {
  std::erase_if(leaves_, [leaf](const CpuidLeaf& l) { return l.leaf == leaf; });
}

void CpuidTable::cut_to_model(const CpuModel& model) {
  if (model.base != CpuModel::Base::host) {
    std::vector<std::string_view> shown(kSystem.begin(), kSystem.end());
    auto need = [&](const auto& level) {
      for (const char* name : level) {
        if (!has(name)) {
          throw ConfigError(
              fmt::format("--cpu {}: this host's CPU or KVM lacks {}; choose a lower model or --cpu host",
                          model.text(), name));
        }
        shown.emplace_back(name);
      }
    };
    need(kV2);
    if (model.base == CpuModel::Base::x86_64_v3) need(kV3);
    // Keep the bits of the features shown, drop every other bit of the feature leaves.
    for (const auto& [leaf, subleaf] : kFeatureLeaves) {
      if (find(leaf, subleaf) == nullptr) continue;
      CpuidLeaf& entry = at(leaf, subleaf, leaf == 7 || leaf == 0xd);
      std::array<uint32_t, 4> keep{};
      for (const std::string_view name : shown) {
        const CpuFeature* f = find_cpu_feature(name);
        if (f->leaf == leaf && f->subleaf == subleaf) keep[std::to_underlying(f->reg)] |= 1U << f->bit;
      }
      if (leaf == 1) {
        keep[0] = ~0U;  // family, model, stepping
        keep[1] = ~0U;  // ids, filled in later
      }
      if (leaf == 7 && subleaf == 0) keep[0] = 1;  // the highest subleaf
      if (leaf == 0x80000001) keep[0] = keep[1] = ~0U;
      if (leaf == 0xd) keep[1] = keep[2] = keep[3] = ~0U;
      entry.eax &= keep[0];
      entry.ebx &= keep[1];
      entry.ecx &= keep[2];
      entry.edx &= keep[3];
    }
    // XSAVE components follow the features: x87 and SSE always, AVX with v3 (SDM vol. 1, 13.2).
    if (!has("xsave")) {
      erase(0xd);
    } else {
      CpuidLeaf& components = at(0xd, 0, true);
      components.eax &= has("avx") ? 7U : 3U;
      components.edx = 0;
      std::erase_if(leaves_, [](const CpuidLeaf& l) { return l.leaf == 0xd && l.subleaf > 2; });
    }
    for (const uint32_t leaf : {0x14U, 0x1dU, 0x1eU, 0x1cU, 0x12U, 0x19U, 0x24U}) erase(leaf);
  }
  for (const std::string& name : model.without) {
    const CpuFeature* f = find_cpu_feature(name);
    if (find(f->leaf, f->subleaf) == nullptr) continue;
    CpuidLeaf& leaf = at(f->leaf, f->subleaf, f->leaf == 7 || f->leaf == 0xd);
    reg(leaf, f->reg) &= ~(1U << f->bit);
  }
}

// N packages of one would be simpler, but schedulers treat cores of one package better.
void CpuidTable::set_topology() {
  const auto core_bits = static_cast<uint32_t>(std::bit_width(cpus_ - 1));
  CpuidLeaf& basic = at(1, 0, false);
  basic.ebx = (basic.ebx & 0x0000ffff) | (std::min(cpus_, 255U) << 16);
  basic.edx = cpus_ > 1 ? basic.edx | (1U << 28) : basic.edx & ~(1U << 28);  // HTT: more than one logical CPU
  const bool amd = find(0) != nullptr &&
                   (find(0)->ebx == 0x68747541 /* "Auth" */ || find(0)->ebx == 0x6f677948 /* "Hygo" */);

  // Leaf 4 (Intel) and 0x8000001D (AMD): no cache is shared by hyper-threads; the last level by all cores.
  for (CpuidLeaf& leaf : leaves_) {
    if (leaf.leaf != 4 && leaf.leaf != 0x8000001d) continue;
    if ((leaf.eax & 0x1f) == 0) continue;
    const uint32_t level = (leaf.eax >> 5) & 7;
    const uint32_t sharing = level >= 3 ? std::bit_ceil(cpus_) - 1 : 0;
    leaf.eax = (leaf.eax & 0x00003fff) | (sharing << 14);
    if (leaf.leaf == 4) leaf.eax |= std::min(std::bit_ceil(cpus_) - 1, 63U) << 26;
  }

  // Leaves 0xB and 0x1F: x2APIC topology. KVM reports the host's; ours has threads (1) and cores (N).
  const uint32_t highest = find(0) != nullptr ? find(0)->eax : 0;
  for (const uint32_t leaf : {0xbU, 0x1fU}) {
    erase(leaf);
    if (leaf > highest) continue;
    leaves_.push_back({leaf, 0, true, 0, 1, 0x100, 0});
    leaves_.push_back({leaf, 1, true, core_bits, cpus_, 0x201, 0});
    leaves_.push_back({leaf, 2, true, 0, 0, 2, 0});
  }

  if (amd) {
    CpuidLeaf& sizes = at(0x80000008, 0, false);
    sizes.ecx = (sizes.ecx & 0xffff0000) | (core_bits << 12) | (cpus_ - 1);
    CpuidLeaf& extended = at(0x80000001, 0, false);
    extended.ecx = cpus_ > 1 ? extended.ecx | 2 : extended.ecx & ~2U;   // CmpLegacy
    if (find(0x8000001e) != nullptr) at(0x8000001e, 0, false).ecx = 0;  // one node
    erase(0x80000026);  // its four levels would contradict the above
    CpuidLeaf& highest_extended = at(0x80000000, 0, false);
    highest_extended.eax = std::min(highest_extended.eax, 0x80000025U);
  }
}

std::vector<CpuidLeaf> CpuidTable::for_vcpu(uint32_t apic_id) const {
  std::vector<CpuidLeaf> leaves = leaves_;
  for (CpuidLeaf& leaf : leaves) {
    switch (leaf.leaf) {
      case 1: leaf.ebx = (leaf.ebx & 0x00ffffff) | (apic_id << 24); break;
      case 0xb:
      case 0x1f: leaf.edx = apic_id; break;
      case 0x8000001e:
        leaf.eax = apic_id;
        leaf.ebx = apic_id & 0xff;  // core id; one thread a core
        break;
      default: break;
    }
  }
  return leaves;
}

}  // namespace minivmm
