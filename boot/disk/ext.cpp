#include "boot/disk/ext.h"

#include <algorithm>
#include <cstring>

#include "boot/disk/load.h"

namespace minivmm {

namespace {

constexpr uint64_t kSuperblock = 1024;
constexpr uint16_t kMagic = 0xef53;
constexpr uint32_t kRootInode = 2;
constexpr uint64_t kMaxFolder = uint64_t{1} << 20;  // bytes; what is looked up here lies in small ones
constexpr unsigned kMaxDepth = 5;                   // ext4/ifork.rst: eh_depth

// Incompatible features whose presence changes nothing for a reader of small files: filetype, recover,
// extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, encrypt and casefold (both told by the inode).
constexpr uint32_t kFileType = 0x2;
constexpr uint32_t k64Bit = 0x80;
constexpr uint32_t kKnown =
    kFileType | 0x4 | 0x40 | k64Bit | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x10000 | 0x20000;

constexpr uint32_t kInodeEncrypted = 0x800;
constexpr uint32_t kInodeExtents = 0x80000;
constexpr uint32_t kInodeInline = 0x10000000;
constexpr uint16_t kTypeMask = 0xf000;
constexpr uint16_t kRegular = 0x8000;
constexpr uint16_t kFolder = 0x4000;

}  // namespace

Result<std::unique_ptr<ExtReader>> ExtReader::open(const ByteSource& partition) {
  auto reader = std::unique_ptr<ExtReader>(new ExtReader(partition));
  if (auto parsed = reader->parse(); !parsed) return std::unexpected(parsed.error());
  return reader;
}

Result<void> ExtReader::parse() {
  std::array<std::byte, 1024> super;
  if (auto got = disk_.read(kSuperblock, super); !got) return got;
  if (load<uint16_t>(super, 0x38) != kMagic) return fail(Errc::unsupported, "no ext file system");
  const auto features = load<uint32_t>(super, 0x60);
  const auto log_block_size = load<uint32_t>(super, 0x18);
  if ((features & ~kKnown) != 0 || (features & kFileType) == 0)
    return fail(Errc::unsupported, "an ext file system with features that are not read here");
  if (log_block_size > 6) return fail(Errc::corrupt, "an ext file system with a strange block size");
  block_size_ = uint64_t{1024} << log_block_size;
  inodes_ = load<uint32_t>(super, 0);
  inodes_per_group_ = load<uint32_t>(super, 0x28);
  const bool dynamic = load<uint32_t>(super, 0x4c) != 0;  // s_rev_level
  inode_size_ = dynamic ? load<uint16_t>(super, 0x58) : 128;
  descriptor_size_ = (features & k64Bit) != 0 ? load<uint16_t>(super, 0xfe) : 32;
  blocks_ = disk_.size() / block_size_;
  descriptors_ = (load<uint32_t>(super, 0x14) + uint64_t{1}) * block_size_;  // behind the superblock's block
  if (inodes_per_group_ == 0 || inode_size_ < 128 || inode_size_ > block_size_ || descriptor_size_ < 32 ||
      descriptor_size_ > 1024) {
    return fail(Errc::corrupt, "an ext superblock that contradicts itself");
  }
  return {};
}

Result<ExtReader::Inode> ExtReader::inode(uint32_t number) const {
  if (number == 0 || number > inodes_) return fail(Errc::corrupt, "an inode that does not exist");
  const uint32_t group = (number - 1) / inodes_per_group_;
  const uint32_t index = (number - 1) % inodes_per_group_;
  std::array<std::byte, 64> descriptor{};
  const size_t length = std::min<size_t>(descriptor_size_, descriptor.size());
  if (auto got =
          disk_.read(descriptors_ + uint64_t{group} * descriptor_size_, std::span(descriptor).first(length));
      !got) {
    return std::unexpected(got.error());
  }
  uint64_t table = load<uint32_t>(descriptor, 8);
  if (length == 64) table |= uint64_t{load<uint32_t>(descriptor, 0x28)} << 32;
  if (table >= blocks_) return fail(Errc::corrupt, "an inode table outside the file system");
  std::array<std::byte, 128> raw;
  if (auto got = disk_.read(table * block_size_ + uint64_t{index} * inode_size_, raw); !got)
    return std::unexpected(got.error());
  Inode node{};
  node.mode = load<uint16_t>(raw, 0);
  node.flags = load<uint32_t>(raw, 0x20);
  node.size = load<uint32_t>(raw, 4);
  if ((node.mode & kTypeMask) == kRegular) node.size |= uint64_t{load<uint32_t>(raw, 0x6c)} << 32;
  std::memcpy(node.root.data(), raw.data() + 0x28, node.root.size());
  return node;
}

// ifork.rst, "Extent Tree": nodes of 12-byte entries behind a 12-byte header.
Result<ExtReader::Run> ExtReader::extent_at(const Inode& node, uint64_t file_block) const {
  std::vector<std::byte> block(node.root.begin(), node.root.end());
  uint64_t hole_end = uint64_t{1} << 32;  // where the next extent, or the next child's first, begins
  for (unsigned level = 0; level <= kMaxDepth; ++level) {
    const auto entries = load<uint16_t>(block, 2);
    const auto depth = load<uint16_t>(block, 6);
    if (load<uint16_t>(block, 0) != 0xf30a || size_t{12} + entries * size_t{12} > block.size())
      return fail(Errc::corrupt, "an extent tree that contradicts itself");
    uint64_t next = 0;  // depth > 0: the last child that begins at or before the block
    bool found = false;
    for (size_t at = 12; at < 12 + entries * size_t{12}; at += 12) {
      const uint64_t first = load<uint32_t>(block, at);
      if (first > file_block) {
        hole_end = std::min(hole_end, first);
        break;
      }
      if (depth != 0) {
        next = load<uint32_t>(block, at + 4) | uint64_t{load<uint16_t>(block, at + 8)} << 32;
        found = true;
        continue;
      }
      uint64_t count = load<uint16_t>(block, at + 4);
      const bool unwritten = count > 32768;
      if (unwritten) count -= 32768;
      if (file_block - first >= count) continue;
      const uint64_t start = load<uint32_t>(block, at + 8) | uint64_t{load<uint16_t>(block, at + 6)} << 32;
      return Run{unwritten ? 0 : start + (file_block - first), count - (file_block - first)};
    }
    if (depth == 0 || !found) return Run{0, std::max(hole_end, file_block + 1) - file_block};
    if (next >= blocks_) return fail(Errc::corrupt, "an extent tree outside the file system");
    block.resize(block_size_);
    if (auto got = disk_.read(next * block_size_, block); !got) return std::unexpected(got.error());
  }
  return fail(Errc::corrupt, "an extent tree that is too deep");
}

// ifork.rst, "Direct/Indirect Block Addressing".
Result<ExtReader::Run> ExtReader::indirect_at(const Inode& node, uint64_t file_block) const {
  constexpr uint64_t kDirect = 12;
  if (file_block < kDirect) return Run{load<uint32_t>(node.root, file_block * 4), 1};
  const uint64_t fan_out = block_size_ / 4;
  uint64_t rest = file_block - kDirect;
  uint64_t covered = fan_out;  // by the tree of this level
  for (size_t level = 0; level < 3; ++level, covered *= fan_out) {
    if (rest >= covered) {
      rest -= covered;
      continue;
    }
    uint64_t block = load<uint32_t>(node.root, (kDirect + level) * 4);
    for (uint64_t step = covered / fan_out; step != 0 && block != 0; step /= fan_out) {
      if (block >= blocks_) return fail(Errc::corrupt, "an indirect block outside the file system");
      std::array<std::byte, 4> number;
      if (auto got = disk_.read(block * block_size_ + rest / step * 4, number); !got)
        return std::unexpected(got.error());
      block = load<uint32_t>(number, 0);
      rest %= step;
    }
    return Run{block, 1};
  }
  return fail(Errc::corrupt, "a block past the largest file");
}

Result<ExtReader::Run> ExtReader::run_at(const Inode& node, uint64_t file_block) const {
  return (node.flags & kInodeExtents) != 0 ? extent_at(node, file_block) : indirect_at(node, file_block);
}

Result<std::vector<std::byte>> ExtReader::contents(const Inode& node, uint64_t most) const {
  if ((node.flags & (kInodeInline | kInodeEncrypted)) != 0)
    return fail(Errc::unsupported, "a file that lies in its inode or is encrypted");
  const uint64_t size = std::min(node.size, most);
  if (size > disk_.size()) return fail(Errc::corrupt, "a file larger than its file system");
  std::vector<std::byte> out(size);
  uint64_t done = 0;
  while (done < size) {
    const auto run = run_at(node, done / block_size_);
    if (!run) return std::unexpected(run.error());
    const uint64_t blocks_left = (size - done + block_size_ - 1) / block_size_;
    const uint64_t length = std::min(size - done, std::min(run->count, blocks_left) * block_size_);
    if (run->block != 0) {
      if (run->block >= blocks_) return fail(Errc::corrupt, "a file's block outside the file system");
      const auto part = std::span(out).subspan(done, length);
      if (auto got = disk_.read(run->block * block_size_, part); !got) return std::unexpected(got.error());
    }
    done += length;
  }
  return out;
}

// directory.rst. A hashed folder reads as a linear one: its inner blocks look like one unused entry each.
Result<uint32_t> ExtReader::find_in(const Inode& folder, std::string_view name) const {
  if (folder.size > kMaxFolder) return fail(Errc::too_large, "a folder too large to be searched");
  const auto bytes = contents(folder, folder.size);
  if (!bytes) return std::unexpected(bytes.error());
  size_t at = 0;
  while (at + 8 <= bytes->size()) {
    const auto number = load<uint32_t>(*bytes, at);
    const auto length = load<uint16_t>(*bytes, at + 4);
    const auto name_length = load<uint8_t>(*bytes, at + 6);
    if (length < 8 || length > bytes->size() - at || name_length > length - 8)
      return fail(Errc::corrupt, "a folder that contradicts itself");
    const std::string_view entry(reinterpret_cast<const char*>(bytes->data()) + at + 8, name_length);
    if (number != 0 && entry == name) return number;
    at += length;
  }
  return fail(Errc::out_of_range, "no such file");
}

Result<ExtReader::Inode> ExtReader::find(std::string_view path) const {
  auto at = inode(kRootInode);
  if (!at) return at;
  const auto walked = for_each_name(path, [&](std::string_view name) -> Result<void> {
    if ((at->mode & kTypeMask) != kFolder) return fail(Errc::out_of_range, "no such file");
    const auto number = find_in(*at, name);
    if (!number) return std::unexpected(number.error());
    at = inode(*number);
    if (!at) return std::unexpected(at.error());
    return {};
  });
  if (!walked) return std::unexpected(walked.error());
  if ((at->mode & kTypeMask) != kRegular) return fail(Errc::out_of_range, "no regular file");
  return at;
}

Result<uint64_t> ExtReader::file_size(std::string_view path) const {
  const auto node = find(path);
  if (!node) return std::unexpected(node.error());
  return node->size;
}

Result<std::vector<std::byte>> ExtReader::read_file(std::string_view path, uint64_t most) const {
  const auto node = find(path);
  if (!node) return std::unexpected(node.error());
  return contents(*node, most);
}

}  // namespace minivmm
