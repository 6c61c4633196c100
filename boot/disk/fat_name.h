// Names in FAT folders.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace minivmm {

#pragma pack(push, 1)
struct FatEntry {  // section 6
  uint8_t name[11];
  uint8_t attributes;
  uint8_t case_flags;
  uint8_t unused[7];
  uint16_t cluster_high;
  uint32_t modified;
  uint16_t cluster_low;
  uint32_t size;
};
#pragma pack(pop)
static_assert(sizeof(FatEntry) == 32);

inline constexpr uint8_t kFatVolumeLabel = 0x08;
inline constexpr uint8_t kFatFolder = 0x10;
inline constexpr uint8_t kFatLongName = 0x0f;  // all of read-only, hidden, system, label

// "GRUB.CFG"
std::string fat_short_name(const FatEntry&);

// Puts a long name together from its entries, which precede the short one, last part first (section 7).
class FatLongName {
 public:
  void add(std::span<const std::byte, 32> entry);
  void drop() { expected_ = 0, units_.clear(); }
  // The name that belongs to this entry, and starts over; "" if none does.
  std::string take(const FatEntry&);

 private:
  std::vector<uint16_t> units_;
  uint8_t expected_ = 0;  // the number of the next part; 0: complete, if units_ is not empty
  uint8_t checksum_ = 0;
};

bool same_fat_name(std::string_view a, std::string_view b);

}  // namespace minivmm
