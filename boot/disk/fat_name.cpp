#include "boot/disk/fat_name.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "boot/disk/utf16.h"

namespace minivmm {

namespace {

constexpr size_t kUnits = 13;  // in one entry
constexpr uint8_t kMaxParts = 20;
constexpr uint8_t kLastPart = 0x40;

uint8_t checksum_of(const FatEntry& entry) {
  uint8_t sum = 0;
  for (const uint8_t c : entry.name) sum = static_cast<uint8_t>(((sum & 1) << 7) + (sum >> 1) + c);
  return sum;
}

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

}  // namespace

std::string fat_short_name(const FatEntry& entry) {
  const auto part = [&entry](size_t from, size_t count) {
    std::string text(reinterpret_cast<const char*>(entry.name) + from, count);
    text.resize(text.find_last_not_of(' ') + 1);
    return text;
  };
  std::string name = part(0, 8);
  if (!name.empty() && name[0] == 0x05) name[0] = static_cast<char>(0xe5);  // 6.1
  const std::string extension = part(8, 3);
  return extension.empty() ? name : name + "." + extension;
}

void FatLongName::add(std::span<const std::byte, 32> entry) {
  const auto order = static_cast<uint8_t>(entry[0]);
  const auto checksum = static_cast<uint8_t>(entry[13]);
  const auto number = static_cast<uint8_t>(order & ~kLastPart);
  if ((order & kLastPart) != 0) {
    drop();
    if (number == 0 || number > kMaxParts) return;
    units_.assign(number * kUnits, 0);
    checksum_ = checksum;
  } else if (number == 0 || number != expected_ || checksum != checksum_) {
    drop();
    return;
  }
  uint16_t* to = units_.data() + (number - 1) * kUnits;
  std::memcpy(to, entry.data() + 1, 10);
  std::memcpy(to + 5, entry.data() + 14, 12);
  std::memcpy(to + 11, entry.data() + 28, 4);
  expected_ = static_cast<uint8_t>(number - 1);
}

std::string FatLongName::take(const FatEntry& entry) {
  const std::vector<uint16_t> units = std::exchange(units_, {});
  const bool complete = std::exchange(expected_, 0) == 0;
  if (units.empty() || !complete || checksum_of(entry) != checksum_) return {};
  return utf8_of(units);
}

bool same_fat_name(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, lower, lower);
}

}  // namespace minivmm
