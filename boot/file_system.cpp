#include "boot/file_system.h"

#include <array>
#include <cstring>
#include <string_view>

namespace minivmm {

namespace {

using namespace std::string_view_literals;

struct Superblock {
  uint64_t offset;  // of the magic
  std::string_view magic;
  std::string_view name;
  bool read_only;
};

constexpr std::array kSuperblocks{
    Superblock{0, "XFSB"sv, "xfs"sv, false},
    Superblock{0, "hsqs"sv, "squashfs"sv, true},
    Superblock{1024, "\xe2\xe1\xf5\xe0"sv, "erofs"sv, true},
    Superblock{1024, "\x10\x20\xf5\xf2"sv, "f2fs"sv, false},
    Superblock{0x10040, "_BHRfS_M"sv, "btrfs"sv, false},
};

constexpr uint64_t kExtSuperblock = 1024;
constexpr size_t kExtFields = 0x68;  // up to and with the feature words

// ext2, 3 and 4 share a magic; the features tell (Linux's Documentation/filesystems/ext4/super.rst).
std::optional<FileSystem> probe_ext(const ByteSource& disk) {
  std::array<std::byte, kExtFields> block;
  if (!disk.read(kExtSuperblock, block)) return std::nullopt;
  const auto load32 = [&block](size_t at) {
    uint32_t v = 0;
    std::memcpy(&v, block.data() + at, sizeof v);
    return v;
  };
  uint16_t magic = 0;
  std::memcpy(&magic, block.data() + 0x38, sizeof magic);
  constexpr uint16_t kMagic = 0xef53;
  const uint32_t log_block_size = load32(0x18);
  if (magic != kMagic || load32(4) == 0 || log_block_size > 6) return std::nullopt;
  constexpr uint32_t kHasJournal = 0x4;     // compatible
  constexpr uint32_t kJournalDevice = 0x8;  // incompatible: this is a journal, not a file system
  constexpr uint32_t kExt3Incompatible = 0x2 | 0x4 | 0x10;  // filetype, recover, meta_bg
  constexpr uint32_t kExt3ReadOnly = 0x1 | 0x2 | 0x4;       // sparse_super, large_file, btree_dir
  const uint32_t incompatible = load32(0x60);
  if ((incompatible & kJournalDevice) != 0) return std::nullopt;
  if ((incompatible & ~kExt3Incompatible) != 0 || (load32(0x64) & ~kExt3ReadOnly) != 0)
    return FileSystem{"ext4", false};
  return FileSystem{(load32(0x5c) & kHasJournal) != 0 ? "ext3" : "ext2", false};
}

}  // namespace

std::optional<FileSystem> probe_file_system(const ByteSource& disk) {
  if (auto ext = probe_ext(disk)) return ext;
  for (const Superblock& superblock : kSuperblocks) {
    std::array<std::byte, 8> magic;
    const std::span field = std::span(magic).first(superblock.magic.size());
    if (!disk.read(superblock.offset, field)) continue;
    if (std::memcmp(field.data(), superblock.magic.data(), field.size()) == 0)
      return FileSystem{std::string(superblock.name), superblock.read_only};
  }
  return std::nullopt;
}

}  // namespace minivmm
