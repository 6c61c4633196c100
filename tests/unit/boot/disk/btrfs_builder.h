// A btrfs of a few blocks with one file in its root folder: for the kinds of extents that mkfs does not make,
// and for hostile ones.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tests/unit/boot/kernel_builder.h"

namespace minivmm::testing {

inline constexpr size_t kBtrfsNode = 4096;
inline constexpr size_t kBtrfsChunkTree = 0x20000;  // where its blocks lie, by logical and physical address
inline constexpr size_t kBtrfsRootTree = 0x21000;
inline constexpr size_t kBtrfsFsTree = 0x22000;
inline constexpr size_t kBtrfsData = 0x23000;

enum class BtrfsCompression : uint8_t { none, zlib, lzo, zstd };

struct BtrfsFile {
  std::string contents = {};
  BtrfsCompression compression = BtrfsCompression::none;
  bool is_inline = false;
  uint64_t size = 0;  // what the inode and the extent say; 0: the contents'
};

Bytes make_btrfs(std::string_view name, const BtrfsFile&);

}  // namespace minivmm::testing
