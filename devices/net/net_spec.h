// What the user says of a network card: --net BACKEND[,key=value...].
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "devices/net/mac_address.h"
#include "vmm/core/rate_limiter.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

inline constexpr uint16_t kMaxNetPairs = 64;
inline constexpr uint16_t kMinNetMtu = 68;  // virtio 1.2, 5.1.4.1

struct NetSpec {
  std::string backend;  // its name in the table (open_net.h); "none": there is no card
  SpecString settings;  // the back end takes its own keys from here
  std::optional<MacAddress> mac = std::nullopt;
  uint16_t mtu = 0;                               // 0: the back end's
  RateLimiter::Bucket rate = {};                  // bytes, for each direction
  std::string pcap = {};                          // file that gets all frames; empty: none
  uint32_t speed = 0;                             // Mbit/s, told to the guest; 0: the back end's
  std::optional<uint16_t> queues = std::nullopt;  // pairs, 1 to kMaxNetPairs
};

inline constexpr std::string_view kNetSpecMetavar = "BACKEND[,KEY=VALUE...]";

// Throws ConfigError for what makes no sense; looks at nothing of the host.
NetSpec parse_net_spec(std::string_view text);

// "100M", "2.5G", "56k" and so on: bits a second, in powers of 1000, as links are measured. nullopt if it is
// none.
std::optional<uint64_t> parse_bit_rate(std::string_view text);

}  // namespace minivmm
