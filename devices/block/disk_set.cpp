#include "devices/block/disk_set.h"

#include <fmt/format.h>

#include <utility>

#include "devices/block/disk_spec.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {
constexpr unsigned kDepth = 16;  // operations at once: opening and looking are done one by one
}

IoEngine& DiskSet::engine() {
  if (!engine_) engine_ = IoEngine::create(IoEngine::Kind::automatic, kDepth);
  return *engine_;
}

OpenedDisk& DiskSet::open(unsigned index, std::string_view spec) {
  const auto found = disks_.find(index);
  if (found != disks_.end()) return found->second;
  const DiskSpec parsed = parse_disk_spec(spec);
  OpenedDisk disk = purpose_ == Purpose::run ? open_disk(engine(), parsed) : inspect_disk(engine(), parsed);
  return keep(index, parsed.path, std::move(disk));
}

void DiskSet::put(unsigned index, OpenedDisk disk) {
  const std::string name = disk.chain.front().path;
  keep(index, name, std::move(disk));
}

OpenedDisk& DiskSet::keep(unsigned index, std::string_view name, OpenedDisk disk) {
  for (const std::string& warning : disk.warnings) log_.write(LogLevel::warn, warning);
  log_.write(LogLevel::info, fmt::format("disk {}: {}: {}, {}", index, name, disk.describe(),
                                         format_size(disk.backend->capacity())));
  return disks_.emplace(index, std::move(disk)).first->second;
}

OpenedDisk DiskSet::take(unsigned index, std::string_view spec) {
  open(index, spec);
  return std::move(disks_.extract(index).mapped());
}

}  // namespace minivmm
