#include "boot/disk/utf16.h"

#include <cstddef>

namespace minivmm {

namespace {

void append(std::string& out, uint32_t c) {
  const auto tail = [&out, c](unsigned shift) { out += static_cast<char>(0x80 | ((c >> shift) & 0x3f)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xc0 | (c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xe0 | (c >> 12));
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xf0 | (c >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace

std::string utf8_of(std::span<const uint16_t> units) {
  std::string out;
  for (size_t i = 0; i < units.size() && units[i] != 0; ++i) {
    uint32_t c = units[i];
    if (c >= 0xd800 && c < 0xe000) {
      const bool pair = c < 0xdc00 && i + 1 < units.size() && units[i + 1] >= 0xdc00 && units[i + 1] < 0xe000;
      c = pair ? 0x10000 + ((c - 0xd800) << 10) + (units[++i] - 0xdc00U) : 0xfffd;
    }
    append(out, c);
  }
  return out;
}

}  // namespace minivmm
