// btrfs's trees (Linux's include/uapi/linux/btrfs_tree.h): blocks found by their logical address, items by
// key.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "vmm/core/byte_source.h"
#include "vmm/core/error.h"

namespace minivmm {

struct BtrfsKey {
  uint64_t object;
  uint8_t type;
  uint64_t offset;
  auto operator<=>(const BtrfsKey&) const = default;
};

namespace btrfs {
inline constexpr uint8_t kInodeItem = 1;
inline constexpr uint8_t kDirItem = 84;
inline constexpr uint8_t kDirIndex = 96;
inline constexpr uint8_t kExtentData = 108;
inline constexpr uint8_t kRootItem = 132;
inline constexpr uint8_t kChunkItem = 228;

BtrfsKey key_at(std::span<const std::byte> data, size_t at);
}  // namespace btrfs

// On one device, where each byte lies in one or two whole copies of which the first is read. Checksums are
// not looked at: what is read is untrusted either way.
class BtrfsTrees {
 public:
  // `partition` must outlive it. Errc::unsupported: no btrfs, several devices, features not read here.
  static Result<BtrfsTrees> open(const ByteSource& partition);

  // `visit` gets the items with first <= key <= last in order, and ends the search by false. Errc::too_large
  // past a limit of blocks, which no look-up in a small file system comes to.
  using Visit = std::function<Result<bool>(const BtrfsKey&, std::span<const std::byte> data)>;
  Result<void> search(uint64_t root, const BtrfsKey& first, const BtrfsKey& last, const Visit& visit) const;

  // The file system's bytes by their logical address.
  Result<void> read(uint64_t logical, std::span<std::byte> out) const;

  uint64_t root_tree() const { return root_tree_; }            // logical address
  uint64_t root_directory() const { return root_directory_; }  // in the root tree

 private:
  struct Chunk {
    uint64_t logical;
    uint64_t length;
    uint64_t physical;
  };
  struct Walk {
    const BtrfsKey& first;
    const BtrfsKey& last;
    const Visit& visit;
    unsigned blocks_left;
  };
  explicit BtrfsTrees(const ByteSource& partition) : disk_(&partition) {}
  Result<void> parse();
  Result<void> add_chunk(uint64_t logical, std::span<const std::byte> item);
  // Returns whether to go on.
  Result<bool> walk(Walk&, uint64_t block, unsigned level_limit) const;
  Result<bool> walk_leaf(Walk&, std::span<const std::byte> node, uint32_t items) const;

  const ByteSource* disk_;
  uint32_t node_size_ = 0;  // bytes
  uint64_t root_tree_ = 0;
  uint64_t root_directory_ = 0;
  std::vector<Chunk> chunks_;
};

}  // namespace minivmm
