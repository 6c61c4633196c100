// Finds the root partition in a GPT or MBR partition table.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "vmm/core/byte_source.h"

namespace minivmm {

struct Partition {
  std::string uuid;  // as Linux's PARTUUID= takes it
  uint64_t offset;   // bytes
  uint64_t size;
};

// GPT: the one partition of the type "root (x86-64)" of the Discoverable Partitions Specification, else the
// only "Linux filesystem". MBR: the only one of type 0x83. nullopt where there is none or the choice would be
// a guess.
std::optional<Partition> find_root_partition(const ByteSource& disk);

}  // namespace minivmm
