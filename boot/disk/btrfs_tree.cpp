#include "boot/disk/btrfs_tree.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "boot/disk/load.h"

namespace minivmm {

namespace {

constexpr uint64_t kSuperblock = 0x10000;
constexpr size_t kSuperblockSize = 4096;
constexpr size_t kSystemChunks = 0x32b;
constexpr size_t kSystemChunksSize = 2048;
constexpr size_t kKeySize = 17;
constexpr size_t kChunkSize = 48;   // without its stripes
constexpr size_t kStripeSize = 32;  // {device, offset, UUID}
constexpr size_t kHeaderSize = 101;
constexpr size_t kItemSize = kKeySize + 8;
constexpr size_t kPointerSize = kKeySize + 16;
constexpr unsigned kMaxLevels = 8;
constexpr unsigned kMaxBlocks = 1024;  // of one search
constexpr size_t kMaxChunks = 4096;

// Up to and with METADATA_UUID, RAID1C34 and SIMPLE_QUOTA: none changes what is read here.
constexpr uint64_t kKnownFeatures = 0x7ff | 0x800 | 0x10000;
// Block group profiles beside DATA, SYSTEM and METADATA: DUP.
constexpr uint64_t kProfiles = 0x7f8;
constexpr uint64_t kDup = 0x20;

}  // namespace

BtrfsKey btrfs::key_at(std::span<const std::byte> data, size_t at) {
  return {load<uint64_t>(data, at), load<uint8_t>(data, at + 8), load<uint64_t>(data, at + 9)};
}

Result<BtrfsTrees> BtrfsTrees::open(const ByteSource& partition) {
  BtrfsTrees trees(partition);
  if (auto parsed = trees.parse(); !parsed) return std::unexpected(parsed.error());
  return trees;
}

Result<void> BtrfsTrees::parse() {
  std::array<std::byte, kSuperblockSize> super;
  if (auto got = disk_->read(kSuperblock, super); !got) return got;
  if (std::memcmp(super.data() + 0x40, "_BHRfS_M", 8) != 0) return fail(Errc::unsupported, "no btrfs");
  if (load<uint64_t>(super, 0x88) != 1) return fail(Errc::unsupported, "a btrfs of several devices");
  if ((load<uint64_t>(super, 0xbc) & ~kKnownFeatures) != 0)
    return fail(Errc::unsupported, "a btrfs with features that are not read here");
  root_tree_ = load<uint64_t>(super, 0x50);
  root_directory_ = load<uint64_t>(super, 0x80);
  node_size_ = load<uint32_t>(super, 0x94);
  const auto system_size = load<uint32_t>(super, 0xa0);
  if (node_size_ < 4096 || node_size_ > 65536 || !std::has_single_bit(node_size_) ||
      system_size > kSystemChunksSize) {
    return fail(Errc::corrupt, "a btrfs superblock that contradicts itself");
  }
  // The chunks that hold the tree of chunks, each behind its key.
  const auto system = std::span<const std::byte>(super).subspan(kSystemChunks, system_size);
  size_t at = 0;
  while (at + kKeySize + kChunkSize <= system.size()) {
    const BtrfsKey key = btrfs::key_at(system, at);
    at += kKeySize;
    if (auto added = add_chunk(key.offset, system.subspan(at)); !added) return added;
    at += kChunkSize + load<uint16_t>(system, at + 44) * kStripeSize;
  }
  const BtrfsKey first{.object = 0, .type = btrfs::kChunkItem, .offset = 0};
  const BtrfsKey last{.object = ~uint64_t{0}, .type = 255, .offset = ~uint64_t{0}};
  return search(load<uint64_t>(super, 0x58), first, last,
                [this](const BtrfsKey& key, std::span<const std::byte> data) -> Result<bool> {
                  if (key.type != btrfs::kChunkItem) return true;
                  if (auto added = add_chunk(key.offset, data); !added) return std::unexpected(added.error());
                  return true;
                });
}

Result<void> BtrfsTrees::add_chunk(uint64_t logical, std::span<const std::byte> item) {
  if (item.size() < kChunkSize + kStripeSize) return fail(Errc::corrupt, "a btrfs chunk that is too short");
  if (chunks_.size() >= kMaxChunks) return fail(Errc::too_large, "a btrfs of too many chunks");
  const uint64_t profile = load<uint64_t>(item, 24) & kProfiles;
  if (profile != 0 && profile != kDup)
    return fail(Errc::unsupported, "a btrfs whose bytes are spread over devices");
  chunks_.push_back({logical, load<uint64_t>(item, 0), load<uint64_t>(item, kChunkSize + 8)});
  return {};
}

Result<void> BtrfsTrees::read(uint64_t logical, std::span<std::byte> out) const {
  const auto chunk = std::ranges::find_if(
      chunks_, [&](const Chunk& c) { return logical >= c.logical && logical - c.logical < c.length; });
  if (chunk == chunks_.end() || out.size() > chunk->length - (logical - chunk->logical))
    return fail(Errc::corrupt, "a btrfs address outside every chunk");
  const uint64_t into = logical - chunk->logical;
  if (chunk->physical > disk_->size() || into > disk_->size() - chunk->physical)
    return fail(Errc::corrupt, "a btrfs chunk outside the partition");
  return disk_->read(chunk->physical + into, out);
}

Result<void> BtrfsTrees::search(uint64_t root, const BtrfsKey& first, const BtrfsKey& last,
                                const Visit& visit) const {
  Walk walk_state{first, last, visit, kMaxBlocks};
  const auto done = walk(walk_state, root, kMaxLevels);
  if (!done) return std::unexpected(done.error());
  return {};
}

Result<bool> BtrfsTrees::walk(Walk& state, uint64_t block, unsigned level_limit) const {
  if (state.blocks_left-- == 0) {
    state.blocks_left = 0;
    return fail(Errc::too_large, "a btrfs tree of too many blocks");
  }
  std::vector<std::byte> node(node_size_);
  if (auto got = read(block, node); !got) return std::unexpected(got.error());
  const auto items = load<uint32_t>(node, 0x60);
  const auto level = load<uint8_t>(node, 0x64);
  // A child lies one level below its parent: a loop ends here.
  if (load<uint64_t>(node, 0x30) != block || level >= level_limit)
    return fail(Errc::corrupt, "a btrfs tree that contradicts itself");
  if (level == 0) return walk_leaf(state, node, items);
  if (items > (node.size() - kHeaderSize) / kPointerSize)
    return fail(Errc::corrupt, "a btrfs node that contradicts itself");
  for (uint32_t i = 0; i < items; ++i) {
    const size_t at = kHeaderSize + i * kPointerSize;
    if (btrfs::key_at(node, at) > state.last) break;
    if (i + 1 < items && btrfs::key_at(node, at + kPointerSize) <= state.first) continue;
    const auto more = walk(state, load<uint64_t>(node, at + kKeySize), level);
    if (!more || !*more) return more;
  }
  return true;
}

Result<bool> BtrfsTrees::walk_leaf(Walk& state, std::span<const std::byte> node, uint32_t items) const {
  const std::span<const std::byte> body = node.subspan(kHeaderSize);
  if (items > body.size() / kItemSize) return fail(Errc::corrupt, "a btrfs leaf that contradicts itself");
  for (uint32_t i = 0; i < items; ++i) {
    const size_t at = i * kItemSize;
    const BtrfsKey key = btrfs::key_at(body, at);
    if (key < state.first) continue;
    if (key > state.last) return false;
    const uint64_t offset = load<uint32_t>(body, at + kKeySize);
    const uint64_t size = load<uint32_t>(body, at + kKeySize + 4);
    if (offset > body.size() || size > body.size() - offset)
      return fail(Errc::corrupt, "a btrfs item outside its leaf");
    const auto more = state.visit(key, body.subspan(offset, size));
    if (!more || !*more) return more;
  }
  return true;
}

}  // namespace minivmm
