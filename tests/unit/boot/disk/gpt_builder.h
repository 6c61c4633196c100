// Disks with a GUID partition table, primary and backup.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "boot/disk/guid.h"
#include "tests/unit/boot/kernel_builder.h"

namespace minivmm::testing {

struct PartitionSpec {
  uint32_t number;
  Guid type;
  Guid id = {};
  std::string_view name = {};
  uint64_t attributes = 0;
  Bytes contents = {};
  uint64_t sectors = 0;  // at least what the contents need
};

struct GptSpec {
  std::vector<PartitionSpec> partitions;
  Guid disk = Guid::of("12345678-1234-1234-1234-123456789abc");
  uint32_t sector_size = 512;
  uint64_t spare_sectors = 0;  // behind the last partition
};

Bytes make_gpt_disk(const GptSpec&);
// Puts a header's checksums right again; `lba` is the header's.
void seal_gpt(Bytes& disk, uint64_t lba, uint32_t sector_size = 512);

}  // namespace minivmm::testing
