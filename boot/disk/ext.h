// ext2, ext3 and ext4, read-only (Linux's Documentation/filesystems/ext4). A journal that was not replayed is
// not looked at: a file that was just being written may be its older self.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "boot/disk/file_reader.h"
#include "vmm/core/byte_source.h"

namespace minivmm {

// Symbolic links are not followed.
class ExtReader final : public FileReader {
 public:
  // `partition` must outlive the reader. Errc::unsupported: none of the three, or a feature not read here.
  static Result<std::unique_ptr<ExtReader>> open(const ByteSource& partition);

  Result<uint64_t> file_size(std::string_view path) const override;
  Result<std::vector<std::byte>> read_file(std::string_view path, uint64_t most) const override;

 private:
  struct Inode {
    uint16_t mode;
    uint32_t flags;
    uint64_t size;                   // bytes
    std::array<std::byte, 60> root;  // i_block: the extent tree's root, or block numbers
  };
  struct Run {
    uint64_t block;  // where it lies; 0: a hole
    uint64_t count;  // how many blocks go on like this
  };

  explicit ExtReader(const ByteSource& partition) : disk_(partition) {}
  Result<void> parse();
  Result<Inode> inode(uint32_t number) const;
  Result<Inode> find(std::string_view path) const;
  Result<uint32_t> find_in(const Inode& folder, std::string_view name) const;
  Result<std::vector<std::byte>> contents(const Inode&, uint64_t most) const;
  Result<Run> run_at(const Inode&, uint64_t file_block) const;
  Result<Run> extent_at(const Inode&, uint64_t file_block) const;
  Result<Run> indirect_at(const Inode&, uint64_t file_block) const;

  const ByteSource& disk_;
  uint64_t block_size_ = 0;  // bytes
  uint64_t blocks_ = 0;
  uint32_t inodes_ = 0;
  uint32_t inodes_per_group_ = 0;
  uint32_t inode_size_ = 0;
  uint32_t descriptor_size_ = 0;
  uint64_t descriptors_ = 0;  // offset in bytes
};

}  // namespace minivmm
