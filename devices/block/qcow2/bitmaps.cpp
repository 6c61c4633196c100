#include "devices/block/qcow2/bitmaps.h"

#include "devices/block/qcow2/metadata_io.h"

namespace minivmm::qcow2 {

namespace {

constexpr size_t kFixedBytes = 24;  // of a directory entry, before its extra data and its name

uint64_t load_name_bytes(const std::byte* entry) {
  return std::to_integer<uint64_t>(entry[18]) << 8 | std::to_integer<uint64_t>(entry[19]);
}
// All of an entry, as its fixed part says.
uint64_t entry_bytes(const std::byte* entry) {
  return (kFixedBytes + uint64_t{load_be32(entry + 20)} + load_name_bytes(entry) + 7) / 8 * 8;
}

}  // namespace

Result<std::optional<BitmapDirectory>> bitmap_directory(const Header& header, uint64_t file_bytes) {
  const Extension* extension = find_extension(header, kExtensionBitmaps);
  if (!extension || (header.autoclear & kAutoclearBitmaps) == 0) return std::nullopt;
  if (extension->data.size() != 24) return fail(Errc::corrupt, "the bitmaps extension has a wrong length");
  const std::byte* at = extension->data.data();
  const BitmapDirectory directory{load_be32(at), load_be64(at + 8), load_be64(at + 16)};
  if (load_be32(at + 4) != 0) return fail(Errc::corrupt, "the bitmaps extension's reserved field is not 0");
  if (directory.bitmaps == 0) return fail(Errc::corrupt, "the bitmaps extension has no bitmaps");
  if (directory.bitmaps > kMaxBitmaps || directory.bytes > kMaxBitmapDirectoryBytes)
    return fail(Errc::too_large, "the bitmap directory is too large");
  if (directory.bytes < directory.bitmaps * kFixedBytes)
    return fail(Errc::corrupt, "the bitmap directory is too small for its entries");
  if (auto good = check_table(header, file_bytes, directory.offset, directory.bytes); !good)
    return std::unexpected(good.error());
  return directory;
}

Result<std::vector<Bitmap>> decode_bitmaps(std::span<const std::byte> directory, uint32_t count) {
  std::vector<Bitmap> out;
  for (uint32_t i = 0; i < count; ++i) {
    if (directory.size() < kFixedBytes) return fail(Errc::corrupt, "the bitmap directory is cut short");
    const std::byte* entry = directory.data();
    Bitmap bitmap;
    bitmap.table_offset = load_be64(entry);
    bitmap.table_entries = load_be32(entry + 8);
    bitmap.flags = load_be32(entry + 12);
    bitmap.granularity_bits = std::to_integer<uint8_t>(entry[17]);
    const uint64_t name_bytes = load_name_bytes(entry);
    const uint64_t extra_bytes = load_be32(entry + 20);
    const uint64_t bytes = entry_bytes(entry);
    if (directory.size() < bytes) return fail(Errc::corrupt, "the bitmap directory is cut short");
    if (bitmap.granularity_bits > 63) return fail(Errc::corrupt, "a bitmap's granularity is out of range");
    const auto name = directory.subspan(kFixedBytes + extra_bytes, name_bytes);
    bitmap.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    out.push_back(std::move(bitmap));
    directory = directory.subspan(bytes);
  }
  if (!directory.empty()) return fail(Errc::corrupt, "the bitmap directory is longer than its entries");
  return out;
}

Task<Result<std::vector<Bitmap>>> read_bitmaps(IoEngine& engine, BlockFile& file,
                                               const BitmapDirectory& directory) {
  std::vector<std::byte> bytes(directory.bytes);
  const Result<void> good = co_await read_bytes(engine, file, directory.offset, bytes);
  if (!good) co_return std::unexpected(good.error());
  co_return decode_bitmaps(bytes, directory.bitmaps);
}

Task<Result<void>> mark_bitmaps_inconsistent(IoEngine& engine, BlockFile& file,
                                             const BitmapDirectory& directory) {
  std::vector<std::byte> bytes(directory.bytes);
  Result<void> done = co_await read_bytes(engine, file, directory.offset, bytes);
  if (!done) co_return done;
  const auto bitmaps = decode_bitmaps(bytes, directory.bitmaps);
  if (!bitmaps) co_return fail(Errc::corrupt, bitmaps.error().what);
  bool changed = false;
  std::byte* entry = bytes.data();
  for (const Bitmap& bitmap : *bitmaps) {
    if ((bitmap.flags & kBitmapInUse) == 0) {
      // No sector's end lies within a flag: each bitmap is marked or not, whatever a crash leaves of this.
      store_be32(entry + 12, bitmap.flags | kBitmapInUse);
      changed = true;
    }
    entry += entry_bytes(entry);
  }
  if (!changed) co_return done;
  done = co_await write_bytes(engine, file, directory.offset, bytes);
  if (done) done = co_await file.sync(engine);
  co_return done;
}

}  // namespace minivmm::qcow2
