// GUID partition tables (UEFI 2.10, 5.3). The disk is untrusted: what does not add up is not believed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "boot/disk/guid.h"
#include "vmm/core/byte_sink.h"
#include "vmm/core/byte_source.h"
#include "vmm/core/error.h"

namespace minivmm {

struct GptPartition {
  uint32_t number;  // from 1, as in /dev/vda1
  Guid type;
  Guid id;              // its text is Linux's PARTUUID
  uint64_t offset;      // bytes
  uint64_t size;        // bytes
  uint64_t attributes;  // table 5.8; bits 48 to 63 belong to the type
  std::string name;     // UTF-8
};

class Gpt {
 public:
  // The primary table, or the backup in the disk's last sector where the primary's checksums are wrong;
  // behind a protective MBR only, as Linux has it. Sectors are 512 or 4096 bytes. Errc::corrupt: there is
  // none.
  static Result<Gpt> read(const ByteSource& disk);

  const Guid& disk() const { return disk_; }
  uint32_t sector_size() const { return sector_size_; }  // bytes
  bool from_backup() const { return from_backup_; }
  // In the table's order; entries that are unused or reach outside the disk are left out.
  std::span<const GptPartition> partitions() const { return partitions_; }

  // Writes both tables anew with `number`'s attributes changed; a damaged one is mended by this. At every
  // instant one of the two is whole. Errc::unsupported where the other table's place is not in this disk.
  Result<void> write_attributes(ByteSink& to, uint32_t number, uint64_t attributes);

 private:
  Gpt() = default;
  void decode();

  struct Copy {
    uint64_t header_lba;
    uint64_t entries_lba;
  };
  Result<Copy> other_copy() const;
  Result<void> write_copy(ByteSink& to, const Copy& at, uint64_t other_header) const;

  std::vector<std::byte> header_;   // one sector
  std::vector<std::byte> entries_;  // whole sectors
  uint64_t disk_sectors_ = 0;
  uint32_t sector_size_ = 0;
  bool from_backup_ = false;
  Guid disk_;
  std::vector<GptPartition> partitions_;
};

}  // namespace minivmm
