#include "vmm/kvm/cpu_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

using enum CpuFeature::Register;

// Names as Linux's arch/x86/include/asm/cpufeatures.h prints them in /proc/cpuinfo.
constexpr CpuFeature kFeatures[] = {
    {"pni", 1, 0, ecx, 0},
    {"pclmulqdq", 1, 0, ecx, 1},
    {"monitor", 1, 0, ecx, 3},
    {"vmx", 1, 0, ecx, 5},
    {"ssse3", 1, 0, ecx, 9},
    {"fma", 1, 0, ecx, 12},
    {"cx16", 1, 0, ecx, 13},
    {"pcid", 1, 0, ecx, 17},
    {"sse4_1", 1, 0, ecx, 19},
    {"sse4_2", 1, 0, ecx, 20},
    {"x2apic", 1, 0, ecx, 21},
    {"movbe", 1, 0, ecx, 22},
    {"popcnt", 1, 0, ecx, 23},
    {"tsc_deadline_timer", 1, 0, ecx, 24},
    {"aes", 1, 0, ecx, 25},
    {"xsave", 1, 0, ecx, 26},
    {"osxsave", 1, 0, ecx, 27},
    {"avx", 1, 0, ecx, 28},
    {"f16c", 1, 0, ecx, 29},
    {"rdrand", 1, 0, ecx, 30},
    {"hypervisor", 1, 0, ecx, 31},
    {"fpu", 1, 0, edx, 0},
    {"vme", 1, 0, edx, 1},
    {"de", 1, 0, edx, 2},
    {"pse", 1, 0, edx, 3},
    {"tsc", 1, 0, edx, 4},
    {"msr", 1, 0, edx, 5},
    {"pae", 1, 0, edx, 6},
    {"mce", 1, 0, edx, 7},
    {"cx8", 1, 0, edx, 8},
    {"apic", 1, 0, edx, 9},
    {"sep", 1, 0, edx, 11},
    {"mtrr", 1, 0, edx, 12},
    {"pge", 1, 0, edx, 13},
    {"mca", 1, 0, edx, 14},
    {"cmov", 1, 0, edx, 15},
    {"pat", 1, 0, edx, 16},
    {"pse36", 1, 0, edx, 17},
    {"clflush", 1, 0, edx, 19},
    {"mmx", 1, 0, edx, 23},
    {"fxsr", 1, 0, edx, 24},
    {"sse", 1, 0, edx, 25},
    {"sse2", 1, 0, edx, 26},
    {"ss", 1, 0, edx, 27},
    {"ht", 1, 0, edx, 28},
    {"arat", 6, 0, eax, 2},
    {"fsgsbase", 7, 0, ebx, 0},
    {"tsc_adjust", 7, 0, ebx, 1},
    {"bmi1", 7, 0, ebx, 3},
    {"hle", 7, 0, ebx, 4},
    {"avx2", 7, 0, ebx, 5},
    {"smep", 7, 0, ebx, 7},
    {"bmi2", 7, 0, ebx, 8},
    {"erms", 7, 0, ebx, 9},
    {"invpcid", 7, 0, ebx, 10},
    {"rtm", 7, 0, ebx, 11},
    {"avx512f", 7, 0, ebx, 16},
    {"avx512dq", 7, 0, ebx, 17},
    {"rdseed", 7, 0, ebx, 18},
    {"adx", 7, 0, ebx, 19},
    {"smap", 7, 0, ebx, 20},
    {"avx512ifma", 7, 0, ebx, 21},
    {"clflushopt", 7, 0, ebx, 23},
    {"clwb", 7, 0, ebx, 24},
    {"avx512cd", 7, 0, ebx, 28},
    {"sha_ni", 7, 0, ebx, 29},
    {"avx512bw", 7, 0, ebx, 30},
    {"avx512vl", 7, 0, ebx, 31},
    {"avx512vbmi", 7, 0, ecx, 1},
    {"umip", 7, 0, ecx, 2},
    {"pku", 7, 0, ecx, 3},
    {"ospke", 7, 0, ecx, 4},
    {"avx512_vbmi2", 7, 0, ecx, 6},
    {"gfni", 7, 0, ecx, 8},
    {"vaes", 7, 0, ecx, 9},
    {"vpclmulqdq", 7, 0, ecx, 10},
    {"avx512_vnni", 7, 0, ecx, 11},
    {"avx512_bitalg", 7, 0, ecx, 12},
    {"avx512_vpopcntdq", 7, 0, ecx, 14},
    {"la57", 7, 0, ecx, 16},
    {"rdpid", 7, 0, ecx, 22},
    {"fsrm", 7, 0, edx, 4},
    {"md_clear", 7, 0, edx, 10},
    {"serialize", 7, 0, edx, 14},
    {"amx_bf16", 7, 0, edx, 22},
    {"amx_tile", 7, 0, edx, 24},
    {"amx_int8", 7, 0, edx, 25},
    {"spec_ctrl", 7, 0, edx, 26},
    {"stibp", 7, 0, edx, 27},
    {"flush_l1d", 7, 0, edx, 28},
    {"arch_capabilities", 7, 0, edx, 29},
    {"ssbd", 7, 0, edx, 31},
    {"avx_vnni", 7, 1, eax, 4},
    {"avx512_bf16", 7, 1, eax, 5},
    {"xsaveopt", 0xd, 1, eax, 0},
    {"xsavec", 0xd, 1, eax, 1},
    {"xgetbv1", 0xd, 1, eax, 2},
    {"xsaves", 0xd, 1, eax, 3},
    {"lahf_lm", 0x80000001, 0, ecx, 0},
    {"svm", 0x80000001, 0, ecx, 2},
    {"cr8_legacy", 0x80000001, 0, ecx, 4},
    {"abm", 0x80000001, 0, ecx, 5},
    {"sse4a", 0x80000001, 0, ecx, 6},
    {"misalignsse", 0x80000001, 0, ecx, 7},
    {"3dnowprefetch", 0x80000001, 0, ecx, 8},
    {"topoext", 0x80000001, 0, ecx, 22},
    {"syscall", 0x80000001, 0, edx, 11},
    {"nx", 0x80000001, 0, edx, 20},
    {"mmxext", 0x80000001, 0, edx, 22},
    {"fxsr_opt", 0x80000001, 0, edx, 25},
    {"pdpe1gb", 0x80000001, 0, edx, 26},
    {"rdtscp", 0x80000001, 0, edx, 27},
    {"lm", 0x80000001, 0, edx, 29},
    {"constant_tsc", 0x80000007, 0, edx, 8},
    {"clzero", 0x80000008, 0, ebx, 0},
    {"ibpb", 0x80000008, 0, ebx, 12},
};

}  // namespace

const CpuFeature* find_cpu_feature(std::string_view name) {
  if (name == "sse3") name = "pni";
  if (name == "lzcnt") name = "abm";
  const auto* found = std::ranges::find_if(kFeatures, [&](const CpuFeature& f) { return name == f.name; });
  return found == std::end(kFeatures) ? nullptr : found;
}

CpuModel CpuModel::parse(std::string_view text) {
  CpuModel model;
  const std::string_view whole = text;
  const size_t comma = text.find(',');
  const std::string_view base = text.substr(0, comma);
  if (base == "host") {
    model.base = Base::host;
  } else if (base == "x86-64-v2") {
    model.base = Base::x86_64_v2;
  } else if (base == "x86-64-v3") {
    model.base = Base::x86_64_v3;
  } else {
    throw ConfigError(
        fmt::format("--cpu {}: unknown model '{}'; choose host, x86-64-v2 or x86-64-v3", whole, base));
  }
  while (text.find(',') != std::string_view::npos) {
    text.remove_prefix(text.find(',') + 1);
    const std::string_view item = text.substr(0, text.find(','));
    if (!item.starts_with('-') || find_cpu_feature(item.substr(1)) == nullptr) {
      throw ConfigError(
          fmt::format("--cpu {}: '{}' is not -FEATURE with a feature named as /proc/cpuinfo does, "
                      "such as -avx2",
                      whole, item));
    }
    model.without.emplace_back(item.substr(1));
  }
  return model;
}

std::string CpuModel::text() const {
  std::string out = base == Base::host ? "host" : base == Base::x86_64_v2 ? "x86-64-v2" : "x86-64-v3";
  for (const std::string& name : without) out += ",-" + name;
  return out;
}

}  // namespace minivmm
