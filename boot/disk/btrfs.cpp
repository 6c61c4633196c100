#include "boot/disk/btrfs.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "boot/disk/load.h"

namespace minivmm {

namespace {

constexpr uint64_t kFsTree = 5;  // the topmost subvolume
constexpr uint64_t kMaxExtent =
    uint64_t{1024} * 1024;  // bytes of a compressed one, either way; btrfs makes 128 KiB
constexpr uint32_t kTypeMask = 0170000;
constexpr uint32_t kRegular = 0100000;
constexpr uint32_t kFolder = 0040000;

enum : uint8_t { kPlain = 0, kZlib = 1, kLzo = 2, kZstd = 3 };
enum : uint8_t { kInline = 0, kStored = 1, kPreallocated = 2 };

// `packed` may have padding behind it.
Result<std::vector<std::byte>> unpack(uint8_t compression, std::span<const std::byte> packed, uint64_t size) {
  if (size > kMaxExtent) return fail(Errc::too_large, "a compressed btrfs extent that is too large");
  std::vector<std::byte> out(size);
  if (compression == kZlib) {
    uLongf length = out.size();
    if (::uncompress(reinterpret_cast<Bytef*>(out.data()), &length,
                     reinterpret_cast<const Bytef*>(packed.data()), packed.size()) == Z_OK) {
      out.resize(length);
      return out;
    }
  } else if (compression == kZstd) {
    const size_t frame = ::ZSTD_findFrameCompressedSize(packed.data(), packed.size());
    if (::ZSTD_isError(frame) == 0) {
      const size_t length = ::ZSTD_decompress(out.data(), out.size(), packed.data(), frame);
      if (::ZSTD_isError(length) == 0) {
        out.resize(length);
        return out;
      }
    }
  } else {
    return fail(Errc::unsupported, "a btrfs file that is compressed neither with zlib nor with zstd");
  }
  return fail(Errc::corrupt, "a btrfs extent that cannot be unpacked");
}

}  // namespace

Result<std::unique_ptr<BtrfsReader>> BtrfsReader::open(const ByteSource& partition) {
  auto trees = BtrfsTrees::open(partition);
  if (!trees) return std::unexpected(trees.error());
  auto reader = std::unique_ptr<BtrfsReader>(new BtrfsReader(std::move(*trees)));
  if (auto found = reader->find_subvolume(); !found) return std::unexpected(found.error());
  return reader;
}

// A folder's entry (btrfs_dir_item, as in kDirItem and kDirIndex): several may share an item where the names'
// hashes are the same.
Result<BtrfsKey> BtrfsReader::find_in(uint64_t tree, uint64_t folder, uint8_t item_type,
                                      std::string_view name) const {
  std::optional<BtrfsKey> found;
  const auto look = [&](const BtrfsKey&, std::span<const std::byte> data) -> Result<bool> {
    constexpr size_t kEntry = 30;  // without name and data
    size_t at = 0;
    while (at + kEntry <= data.size()) {
      const size_t data_length = load<uint16_t>(data, at + 25);
      const size_t name_length = load<uint16_t>(data, at + 27);
      if (data_length + name_length > data.size() - at - kEntry)
        return fail(Errc::corrupt, "a btrfs folder that contradicts itself");
      const std::string_view entry(reinterpret_cast<const char*>(data.data()) + at + kEntry, name_length);
      if (entry == name) {
        found = btrfs::key_at(data, at);
        return false;
      }
      at += kEntry + name_length + data_length;
    }
    return true;
  };
  const auto searched = trees_.search(tree, {.object = folder, .type = item_type, .offset = 0},
                                      {.object = folder, .type = item_type, .offset = ~uint64_t{0}}, look);
  if (!searched) return std::unexpected(searched.error());
  if (!found) return fail(Errc::out_of_range, "no such file");
  return *found;
}

Result<uint64_t> BtrfsReader::default_subvolume() const {
  const auto entry = find_in(trees_.root_tree(), trees_.root_directory(), btrfs::kDirItem, "default");
  if (entry && entry->type == btrfs::kRootItem) return entry->object;
  if (!entry && entry.error().code != Errc::out_of_range) return std::unexpected(entry.error());
  return kFsTree;
}

Result<void> BtrfsReader::find_subvolume() {
  const auto id = default_subvolume();
  if (!id) return std::unexpected(id.error());
  const auto take = [this](const BtrfsKey&, std::span<const std::byte> item) -> Result<bool> {
    if (item.size() < 184) return fail(Errc::corrupt, "a btrfs subvolume that is too short");
    top_ = load<uint64_t>(item, 168);
    tree_ = load<uint64_t>(item, 176);
    return false;
  };
  auto searched = trees_.search(trees_.root_tree(), {.object = *id, .type = btrfs::kRootItem, .offset = 0},
                                {.object = *id, .type = btrfs::kRootItem, .offset = ~uint64_t{0}}, take);
  if (searched && tree_ == 0) return fail(Errc::corrupt, "a btrfs without its default subvolume");
  return searched;
}

Result<BtrfsReader::Inode> BtrfsReader::inode(uint64_t number) const {
  std::optional<Inode> found;
  const BtrfsKey key{.object = number, .type = btrfs::kInodeItem, .offset = 0};
  const auto searched =
      trees_.search(tree_, key, key, [&](const BtrfsKey&, std::span<const std::byte> item) -> Result<bool> {
        if (item.size() < 56) return fail(Errc::corrupt, "a btrfs inode that is too short");
        found = Inode{number, load<uint64_t>(item, 16), load<uint32_t>(item, 52)};
        return false;
      });
  if (!searched) return std::unexpected(searched.error());
  if (!found) return fail(Errc::corrupt, "a btrfs inode that does not exist");
  return *found;
}

Result<BtrfsReader::Inode> BtrfsReader::find(std::string_view path) const {
  auto at = inode(top_);
  if (!at) return at;
  const auto walked = for_each_name(path, [&](std::string_view name) -> Result<void> {
    if ((at->mode & kTypeMask) != kFolder) return fail(Errc::out_of_range, "no such file");
    const auto entry = find_in(tree_, at->number, btrfs::kDirIndex, name);
    if (!entry) return std::unexpected(entry.error());
    if (entry->type != btrfs::kInodeItem) return fail(Errc::unsupported, "a file in a subvolume of its own");
    at = inode(entry->object);
    if (!at) return std::unexpected(at.error());
    return {};
  });
  if (!walked) return std::unexpected(walked.error());
  if ((at->mode & kTypeMask) != kRegular) return fail(Errc::out_of_range, "no regular file");
  return at;
}

// btrfs_file_extent_item. `out` is the file from its beginning; what lies past it is left out.
Result<void> BtrfsReader::copy_extent(uint64_t file_offset, std::span<const std::byte> item,
                                      std::span<std::byte> out) const {
  constexpr size_t kHead = 21;
  if (item.size() < kHead) return fail(Errc::corrupt, "a btrfs extent that is too short");
  if (file_offset >= out.size()) return {};
  const std::span<std::byte> to = out.subspan(file_offset);
  const auto unpacked_size = load<uint64_t>(item, 8);
  const auto compression = load<uint8_t>(item, 16);
  const auto kind = load<uint8_t>(item, 20);
  if (load<uint8_t>(item, 17) != 0 || load<uint16_t>(item, 18) != 0)
    return fail(Errc::unsupported, "a btrfs file that is encrypted");
  const auto copy = [&to](std::span<const std::byte> from) {
    std::ranges::copy(from.first(std::min(from.size(), to.size())), to.begin());
  };
  if (kind == kPreallocated) return {};
  if (kind == kInline) {
    if (compression == kPlain) return copy(item.subspan(kHead)), Result<void>{};
    const auto bytes = unpack(compression, item.subspan(kHead), unpacked_size);
    if (!bytes) return std::unexpected(bytes.error());
    return copy(*bytes), Result<void>{};
  }
  if (kind != kStored || item.size() < 53) return fail(Errc::corrupt, "a btrfs extent of no known kind");
  const auto where = load<uint64_t>(item, 21);
  const auto stored = load<uint64_t>(item, 29);
  const auto begin = load<uint64_t>(item, 37);  // in the extent as it was written
  const uint64_t wanted = std::min<uint64_t>(load<uint64_t>(item, 45), to.size());
  if (where == 0) return {};  // a hole
  if (compression == kPlain) {
    if (begin > stored || wanted > stored - begin || where > ~uint64_t{0} - begin)
      return fail(Errc::corrupt, "a btrfs extent that reaches past its bytes");
    return trees_.read(where + begin, to.first(wanted));
  }
  if (stored > kMaxExtent) return fail(Errc::too_large, "a compressed btrfs extent that is too large");
  std::vector<std::byte> packed(stored);
  if (auto got = trees_.read(where, packed); !got) return got;
  const auto bytes = unpack(compression, packed, unpacked_size);
  if (!bytes) return std::unexpected(bytes.error());
  if (begin > bytes->size() || wanted > bytes->size() - begin)
    return fail(Errc::corrupt, "a btrfs extent that reaches past its bytes");
  return copy(std::span(*bytes).subspan(begin, wanted)), Result<void>{};
}

Result<uint64_t> BtrfsReader::file_size(std::string_view path) const {
  const auto node = find(path);
  if (!node) return std::unexpected(node.error());
  return node->size;
}

Result<std::vector<std::byte>> BtrfsReader::read_file(std::string_view path, uint64_t most) const {
  const auto node = find(path);
  if (!node) return std::unexpected(node.error());
  constexpr uint64_t kMaxFile = uint64_t{16} << 20;  // compressed holes could claim any size
  const uint64_t size = std::min(node->size, most);
  if (size > kMaxFile) return fail(Errc::too_large, "a btrfs file larger than is read here");
  std::vector<std::byte> out(size);
  const auto searched =
      trees_.search(tree_, {.object = node->number, .type = btrfs::kExtentData, .offset = 0},
                    {.object = node->number, .type = btrfs::kExtentData, .offset = ~uint64_t{0}},
                    [&](const BtrfsKey& key, std::span<const std::byte> item) -> Result<bool> {
                      if (key.offset >= out.size()) return false;
                      if (auto done = copy_extent(key.offset, item, out); !done)
                        return std::unexpected(done.error());
                      return true;
                    });
  if (!searched) return std::unexpected(searched.error());
  return out;
}

}  // namespace minivmm
