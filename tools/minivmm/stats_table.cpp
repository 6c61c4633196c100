#include "stats_table.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <optional>

#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

void print_balloon(const BalloonStats& balloon) {
  const auto line = [](const char* what, std::optional<uint64_t> bytes) {
    if (bytes) fmt::print(stderr, "  {:<16}{:>12}\n", what, format_size(*bytes));
  };
  fmt::print(stderr, "balloon\n");
  line("asked for", balloon.target);
  line("given at most", balloon.most);  // at the end a guest has taken all back
  if (!balloon.time) return;
  const auto age = std::chrono::steady_clock::now() - *balloon.time;
  fmt::print(stderr, "memory of the guest, as told {} s ago\n",
             std::chrono::duration_cast<std::chrono::seconds>(age).count());
  line("total", balloon.total);
  line("free", balloon.free);
  line("available", balloon.available);
  line("caches", balloon.caches);
}

}  // namespace

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
  if (stats.balloon) print_balloon(*stats.balloon);
  if (stats.resets != 0) fmt::print(stderr, "resets            {:>12}\n", stats.resets);
}

}  // namespace minivmm
