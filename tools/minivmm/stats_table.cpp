#include "stats_table.h"

#include <fmt/format.h>

#include <cstdio>
#include <map>

namespace minivmm {

void print_stats(const MachineStats& stats) {
  std::map<ExitReason, uint64_t> total;
  for (const auto& vcpu : stats.vcpus) {
    for (const auto& [reason, count] : vcpu.exits) total[reason] += count;
  }
  uint64_t sum = 0;
  fmt::print(stderr, "exits by reason\n");
  for (const auto& [reason, count] : total) {
    fmt::print(stderr, "  {:<16}{:>12}\n", to_string(reason), count);
    sum += count;
  }
  fmt::print(stderr, "  {:<16}{:>12}\n", "all", sum);
  if (stats.vcpus.size() > 1) {
    fmt::print(stderr, "exits by vcpu\n");
    for (const auto& vcpu : stats.vcpus) {
      uint64_t all = 0;
      for (const auto& [reason, count] : vcpu.exits) all += count;
      fmt::print(stderr, "  vcpu{:<12}{:>12}\n", vcpu.index, all);
    }
  }
  fmt::print(stderr, "accesses by device\n");
  for (const auto& [name, count] : stats.devices) {
    if (count != 0) fmt::print(stderr, "  {:<16}{:>12}\n", name, count);
  }
  if (stats.resets != 0) fmt::print(stderr, "resets            {:>12}\n", stats.resets);
}

}  // namespace minivmm
