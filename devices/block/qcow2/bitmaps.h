// "Bitmaps": the directory of the dirty bitmaps that an image keeps for others. They are not kept up here,
// but their clusters are the image's, and people want to see them listed.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/block/block_file.h"
#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

inline constexpr uint32_t kMaxBitmaps = 65535;  // QEMU's limit, as is the next
inline constexpr uint64_t kMaxBitmapDirectoryBytes = uint64_t{64} << 20;

inline constexpr uint32_t kBitmapInUse = 1 << 0;
inline constexpr uint32_t kBitmapAuto = 1 << 1;

// "Bitmaps extension".
struct BitmapDirectory {
  uint32_t bitmaps = 0;
  uint64_t bytes = 0;
  uint64_t offset = 0;
};
// nullopt: the image has no bitmaps, or none that its autoclear bit vouches for. Errc::corrupt,
// Errc::too_large.
Result<std::optional<BitmapDirectory>> bitmap_directory(const Header&, uint64_t file_bytes);

// "Bitmap directory".
struct Bitmap {
  uint64_t table_offset = 0;
  uint32_t table_entries = 0;
  uint32_t flags = 0;
  uint8_t granularity_bits = 0;
  std::string name;
};
Result<std::vector<Bitmap>> decode_bitmaps(std::span<const std::byte> directory, uint32_t count);
Task<Result<std::vector<Bitmap>>> read_bitmaps(IoEngine&, BlockFile&, const BitmapDirectory&);

// "in_use" for each, which says that its contents are out of date, and a sync: before the disk is changed.
// Errc::corrupt: the directory makes no sense; nothing was written then. Errc::io, Errc::no_space.
Task<Result<void>> mark_bitmaps_inconsistent(IoEngine&, BlockFile&, const BitmapDirectory&);

// "Bitmap table": what an entry may have besides an offset; bit 0 only without one.
inline constexpr uint64_t kBitmapEntryReserved = ~(kOffsetMask | 1);

}  // namespace minivmm::qcow2
