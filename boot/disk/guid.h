// GUIDs as they are stored on disks: the first three groups little-endian (UEFI 2.10, appendix A).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace minivmm {

struct Guid {
  std::array<uint8_t, 16> bytes{};

  bool operator==(const Guid&) const = default;
  // "7130c94a-213a-4e5a-8e26-6cce9662f132": lower case, as Linux's PARTUUID= has it.
  std::string text() const;

  // Of constants: anything but 36 characters in the form above does not compile.
  static consteval Guid of(std::string_view text);
};

// The place of each stored byte's two digits in the textual form.
inline constexpr std::array<uint8_t, 16> kGuidDigits{6,  4,  2,  0,  11, 9,  16, 14,
                                                     19, 21, 24, 26, 28, 30, 32, 34};

consteval Guid Guid::of(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    throw "no lower-case hexadecimal digit";
  };
  if (text.size() != 36) throw "no GUID";
  Guid guid;
  for (size_t i = 0; i < guid.bytes.size(); ++i) {
    const size_t at = kGuidDigits[i];
    guid.bytes[i] = static_cast<uint8_t>(digit(text[at]) * 16 + digit(text[at + 1]));
  }
  return guid;
}

inline std::string Guid::text() const {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out(36, '-');
  for (size_t i = 0; i < bytes.size(); ++i) {
    out[kGuidDigits[i]] = kDigits[bytes[i] >> 4];
    out[kGuidDigits[i] + 1U] = kDigits[bytes[i] & 15];
  }
  return out;
}

}  // namespace minivmm
