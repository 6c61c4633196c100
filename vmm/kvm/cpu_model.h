// --cpu: which of the host's CPU features the guest is shown, so that guests can move between hosts. The
// x86-64-vN levels are those of the x86-64 psABI, section 3.1.1.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace minivmm {

struct CpuModel {
  enum class Base : uint8_t { host, x86_64_v2, x86_64_v3 };
  Base base = Base::host;
  std::vector<std::string> without;  // feature names as /proc/cpuinfo spells them

  // "host", "x86-64-v3,-avx2": throws ConfigError naming what it does not know.
  static CpuModel parse(std::string_view text);
  std::string text() const;
};

// One CPUID feature bit.
struct CpuFeature {
  const char* name;
  uint32_t leaf;
  uint32_t subleaf;
  enum class Register : uint8_t { eax, ebx, ecx, edx } reg;
  uint8_t bit;
};
// nullptr if there is no such feature.
const CpuFeature* find_cpu_feature(std::string_view name);

}  // namespace minivmm
