#include "vmm/machine/credential_string.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr size_t kLongestName = 255;

// RFC 4648, 4.
std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  while (!bytes.empty()) {
    const std::string_view group = bytes.substr(0, 3);
    bytes.remove_prefix(group.size());
    uint32_t bits = 0;
    for (size_t i = 0; i < 3; ++i) {
      bits = bits << 8 | (i < group.size() ? static_cast<unsigned char>(group[i]) : 0U);
    }
    for (size_t i = 0; i < 4; ++i) out += i <= group.size() ? kDigits[bits >> (18 - 6 * i) & 63] : '=';
  }
  return out;
}

}  // namespace

// systemd.exec(5), LoadCredential=: "short ASCII string suitable as filename".
void check_credential_name(std::string_view option, std::string_view name) {
  const bool plain =
      std::ranges::all_of(name, [](char c) { return c > ' ' && c <= '~' && c != '/' && c != '='; });
  if (name.empty() || name == "." || name == ".." || name.size() > kLongestName || !plain) {
    throw ConfigError(
        fmt::format("{} {}: a credential's name is ASCII without blanks, '/' and '=', {} characters at most",
                    option, name, kLongestName));
  }
}

std::string credential_string(std::string_view name, std::string_view content) {
  const bool plain = std::ranges::all_of(content, [](char c) { return c >= ' ' && c <= '~'; });
  if (plain) return fmt::format("io.systemd.credential:{}={}", name, content);
  return fmt::format("io.systemd.credential.binary:{}={}", name, base64(content));
}

}  // namespace minivmm
