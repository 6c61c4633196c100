#include "devices/net/mac_address.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "vmm/core/stable_uuid.h"

namespace minivmm {

std::optional<MacAddress> MacAddress::parse(std::string_view text) {
  constexpr size_t kLength = 17;  // six pairs of digits, five separators
  if (text.size() != kLength) return std::nullopt;
  MacAddress mac;
  for (size_t i = 0; i < mac.bytes.size(); ++i) {
    const char* pair = text.data() + 3 * i;
    const auto [end, error] = std::from_chars(pair, pair + 2, mac.bytes[i], 16);
    if (error != std::errc{} || end != pair + 2) return std::nullopt;
    if (i != 0 && (pair[-1] != text[2] || (pair[-1] != ':' && pair[-1] != '-'))) return std::nullopt;
  }
  return mac;
}

std::string MacAddress::text() const {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2], bytes[3],
                     bytes[4], bytes[5]);
}

MacAddress derive_mac(std::string_view machine, unsigned nic) {
  const Uuid uuid = stable_uuid(fmt::format("mac/{}/{}", nic, machine));
  MacAddress mac;
  std::copy_n(uuid.begin(), mac.bytes.size(), mac.bytes.begin());
  mac.bytes[0] = static_cast<uint8_t>((mac.bytes[0] & ~1U) | 2U);  // IEEE 802, 8.2: not group, local
  return mac;
}

}  // namespace minivmm
