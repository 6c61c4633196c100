// How a GPT lies on the disk (UEFI 2.10, 5.2.3 and 5.3), little-endian.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "boot/disk/guid.h"

namespace minivmm {

#pragma pack(push, 1)
struct GptHeader {  // table 5.5
  std::array<char, 8> signature;
  uint32_t revision;
  uint32_t header_size;
  uint32_t header_crc;
  uint32_t reserved;
  uint64_t my_lba;
  uint64_t alternate_lba;
  uint64_t first_usable;
  uint64_t last_usable;
  Guid disk;
  uint64_t entries_lba;
  uint32_t entry_count;
  uint32_t entry_size;
  uint32_t entries_crc;
};
struct GptEntry {  // table 5.6
  Guid type;
  Guid id;
  uint64_t first;
  uint64_t last;
  uint64_t attributes;
  std::array<uint16_t, 36> name;
};
struct MbrEntry {  // table 5.2
  uint8_t status;
  std::array<uint8_t, 3> first_chs;
  uint8_t type;
  std::array<uint8_t, 3> last_chs;
  uint32_t first;
  uint32_t sectors;
};
#pragma pack(pop)
static_assert(sizeof(GptHeader) == 92 && sizeof(GptEntry) == 128 && sizeof(MbrEntry) == 16);

inline constexpr size_t kMbrEntries = 446;       // offset of the four
inline constexpr uint8_t kMbrProtective = 0xee;  // 5.2.3

// CRC-32 of `size` bytes, as both checksums are.
uint32_t gpt_crc(std::span<const std::byte> bytes);

// Whether these first 512 bytes of a disk are an MBR, and whether one with a protective partition.
bool is_mbr(std::span<const std::byte, 512> sector);
bool is_protective_mbr(std::span<const std::byte, 512> sector);

}  // namespace minivmm
