// btrfs on one device, read-only: as much as it takes to read small files of the default subvolume.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "boot/disk/btrfs_tree.h"
#include "boot/disk/file_reader.h"

namespace minivmm {

// Files may be compressed with zlib or zstd. Symbolic links are not followed, nor are subvolumes within the
// default one. What was synced into the log only is not seen.
class BtrfsReader final : public FileReader {
 public:
  // `partition` must outlive the reader. Errc::unsupported: see BtrfsTrees.
  static Result<std::unique_ptr<BtrfsReader>> open(const ByteSource& partition);

  Result<uint64_t> file_size(std::string_view path) const override;
  Result<std::vector<std::byte>> read_file(std::string_view path, uint64_t most) const override;

 private:
  struct Inode {
    uint64_t number;
    uint64_t size;  // bytes
    uint32_t mode;
  };
  explicit BtrfsReader(BtrfsTrees trees) : trees_(std::move(trees)) {}
  Result<void> find_subvolume();
  Result<uint64_t> default_subvolume() const;
  Result<BtrfsKey> find_in(uint64_t tree, uint64_t folder, uint8_t item_type, std::string_view name) const;
  Result<Inode> inode(uint64_t number) const;
  Result<Inode> find(std::string_view path) const;
  Result<void> copy_extent(uint64_t file_offset, std::span<const std::byte> item,
                           std::span<std::byte> out) const;

  BtrfsTrees trees_;
  uint64_t tree_ = 0;  // logical address of the subvolume's tree
  uint64_t top_ = 0;   // inode of its topmost folder
};

}  // namespace minivmm
