// FAT12, FAT16 and FAT32 with long names (Microsoft's "FAT: General Overview of On-Disk Format", 1.03).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "boot/disk/file_reader.h"
#include "vmm/core/byte_source.h"

namespace minivmm {

// Names are found in any case of ASCII letters, by their long form or their 8.3 one.
class FatReader final : public FileReader {
 public:
  // `partition` must outlive the reader. Errc::unsupported: no FAT.
  static Result<std::unique_ptr<FatReader>> open(const ByteSource& partition);

  Result<uint64_t> file_size(std::string_view path) const override;
  Result<std::vector<std::byte>> read_file(std::string_view path, uint64_t most) const override;

 private:
  enum class Kind : uint8_t { fat12, fat16, fat32 };
  struct Entry {
    uint32_t cluster;
    uint32_t size;  // bytes; of a folder 0
    bool folder;
  };

  explicit FatReader(const ByteSource& partition) : disk_(partition) {}
  Result<void> parse();
  Result<Entry> find(std::string_view path) const;
  Result<Entry> find_in(const Entry& folder, std::string_view name) const;
  Result<std::vector<std::byte>> read_folder(const Entry& folder) const;
  // The first `size` bytes of a chain; fewer where it ends before, if `may_end`.
  Result<std::vector<std::byte>> read_chain(uint32_t cluster, uint64_t size, bool may_end) const;
  Result<uint32_t> next_cluster(uint32_t cluster) const;

  const ByteSource& disk_;
  Kind kind_ = Kind::fat12;
  uint32_t cluster_size_ = 0;   // bytes
  uint32_t cluster_count_ = 0;  // they are numbered from 2
  uint64_t fat_offset_ = 0;     // bytes, as the rest
  uint64_t fat_size_ = 0;
  uint64_t root_offset_ = 0;  // FAT12 and FAT16: of the root folder, which is no chain
  uint64_t root_size_ = 0;
  uint64_t data_offset_ = 0;
  uint32_t root_cluster_ = 0;  // FAT32; 0 elsewhere
  // The part of the FAT that was read last: chains mostly go on where they were.
  mutable std::vector<std::byte> window_;
  mutable uint64_t window_offset_ = 0;
};

}  // namespace minivmm
