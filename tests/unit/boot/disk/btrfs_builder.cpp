#include "tests/unit/boot/disk/btrfs_builder.h"

#include <zlib.h>
#include <zstd.h>

#include "boot/disk/btrfs_tree.h"

namespace minivmm::testing {

namespace {

constexpr uint64_t kTopFolder = 256;
constexpr uint64_t kFile = 257;
constexpr size_t kHeader = 101;

void put_key(Bytes& in, size_t at, const BtrfsKey& key) {
  put(in, at, key.object);
  put(in, at + 8, key.type);
  put(in, at + 9, key.offset);
}

// A leaf that is filled from both ends.
class Leaf {
 public:
  Leaf(Bytes& image, size_t at) : image_(image), at_(at) { put(image_, at_ + 0x30, uint64_t{at}); }
  void add(const BtrfsKey& key, const Bytes& item) {
    data_end_ -= item.size();
    const size_t entry = at_ + kHeader + items_ * 25;
    put_key(image_, entry, key);
    put(image_, entry + 17, static_cast<uint32_t>(data_end_));
    put(image_, entry + 21, static_cast<uint32_t>(item.size()));
    std::ranges::copy(item, image_.begin() + static_cast<std::ptrdiff_t>(at_ + kHeader + data_end_));
    put(image_, at_ + 0x60, ++items_);
  }

 private:
  Bytes& image_;
  size_t at_;
  size_t data_end_ = kBtrfsNode - kHeader;
  uint32_t items_ = 0;
};

Bytes pack(BtrfsCompression compression, const std::string& text) {
  const auto all = std::as_bytes(std::span(text));
  if (compression == BtrfsCompression::zlib) {
    uLongf size = ::compressBound(text.size());
    Bytes out(size);
    ::compress(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(text.data()),
               text.size());
    out.resize(size);
    return out;
  }
  if (compression == BtrfsCompression::zstd) {
    Bytes out(::ZSTD_compressBound(text.size()));
    out.resize(::ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
    return out;
  }
  return {all.begin(), all.end()};
}

Bytes chunk_item() {
  Bytes item(48 + 32);
  put(item, 0, uint64_t{1} << 24);  // length
  put(item, 24, uint64_t{7});       // data, system and metadata, once
  put(item, 44, uint16_t{1});       // stripes
  put(item, 48, uint64_t{1});       // device; its offset is 0
  return item;
}

Bytes inode_item(uint64_t size, uint32_t mode) {
  Bytes item(160);
  put(item, 16, size);
  put(item, 52, mode);
  return item;
}

Bytes entry_item(const BtrfsKey& key, std::string_view name) {
  Bytes item(30 + name.size());
  put_key(item, 0, key);
  put(item, 27, static_cast<uint16_t>(name.size()));
  std::ranges::copy(std::as_bytes(std::span(name)), item.begin() + 30);
  return item;
}

Bytes extent_item(const BtrfsFile& file, const Bytes& packed, uint64_t size) {
  Bytes item(file.is_inline ? 21 : 53);
  put(item, 8, size);
  put(item, 16, static_cast<uint8_t>(file.compression));
  put(item, 20, static_cast<uint8_t>(file.is_inline ? 0 : 1));
  if (file.is_inline) {
    item.insert(item.end(), packed.begin(), packed.end());
  } else {
    put(item, 21, uint64_t{kBtrfsData});
    put(item, 29, uint64_t{(packed.size() + 4095) / 4096 * 4096});
    put(item, 45, size);
  }
  return item;
}

}  // namespace

Bytes make_btrfs(std::string_view name, const BtrfsFile& file) {
  const Bytes packed = pack(file.compression, file.contents);
  const uint64_t size = file.size != 0 ? file.size : file.contents.size();
  Bytes image(kBtrfsData + (packed.size() + 8191) / 4096 * 4096);
  const size_t super = 0x10000;
  std::ranges::copy(std::as_bytes(std::span("_BHRfS_M", 8)), image.begin() + super + 0x40);
  put(image, super + 0x50, uint64_t{kBtrfsRootTree});
  put(image, super + 0x58, uint64_t{kBtrfsChunkTree});
  put(image, super + 0x80, uint64_t{6});
  put(image, super + 0x88, uint64_t{1});
  put(image, super + 0x90, uint32_t{4096});
  put(image, super + 0x94, static_cast<uint32_t>(kBtrfsNode));
  put(image, super + 0xa0, static_cast<uint32_t>(17 + chunk_item().size()));
  const BtrfsKey chunk{.object = 256, .type = btrfs::kChunkItem, .offset = 0};
  put_key(image, super + 0x32b, chunk);
  std::ranges::copy(chunk_item(), image.begin() + super + 0x32b + 17);

  Leaf(image, kBtrfsChunkTree).add(chunk, chunk_item());
  Bytes root(239);
  put(root, 168, kTopFolder);
  put(root, 176, uint64_t{kBtrfsFsTree});
  Leaf(image, kBtrfsRootTree).add({.object = 5, .type = btrfs::kRootItem, .offset = 0}, root);
  Leaf fs(image, kBtrfsFsTree);
  const BtrfsKey inode{.object = kFile, .type = btrfs::kInodeItem, .offset = 0};
  fs.add({.object = kTopFolder, .type = btrfs::kInodeItem, .offset = 0}, inode_item(0, 0040755));
  fs.add({.object = kTopFolder, .type = btrfs::kDirIndex, .offset = 2}, entry_item(inode, name));
  fs.add(inode, inode_item(size, 0100644));
  fs.add({.object = kFile, .type = btrfs::kExtentData, .offset = 0}, extent_item(file, packed, size));
  if (!file.is_inline) std::ranges::copy(packed, image.begin() + kBtrfsData);
  return image;
}

}  // namespace minivmm::testing
