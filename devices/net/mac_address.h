// Ethernet addresses (IEEE 802), and those that a machine's cards have when the user gives none.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace minivmm {

struct MacAddress {
  std::array<uint8_t, 6> bytes{};

  bool is_multicast() const { return (bytes[0] & 1) != 0; }  // broadcast is, too
  bool is_zero() const { return *this == MacAddress{}; }
  auto operator<=>(const MacAddress&) const = default;

  static std::optional<MacAddress> parse(std::string_view text);  // "52:54:00:12:34:56", or with dashes
  std::string text() const;
};

// Of network card `nic` of the machine with this identity: the same at each start, another for any other
// machine of this host, for other users and for other hosts. Unicast, locally administered.
MacAddress derive_mac(std::string_view machine, unsigned nic);

}  // namespace minivmm
