#include "devices/net/net_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <vector>

#include "devices/net/open_net.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr std::array<std::string_view, 7> kCommonKeys{"mac",  "mtu",    "rate", "rate-burst",
                                                      "pcap", "queues", "speed"};
constexpr uint64_t kLeastRate = 8000;  // bits a second; less is a mistake in the unit

std::optional<uint16_t> get_number(const SpecString& settings, std::string_view key, uint16_t least,
                                   uint16_t most) {
  const auto text = settings.get(key);
  if (!text) return std::nullopt;
  uint16_t number = 0;
  const char* end = text->data() + text->size();
  const auto parsed = std::from_chars(text->data(), end, number);
  if (parsed.ec != std::errc{} || parsed.ptr != end || number < least || number > most) {
    throw ConfigError(fmt::format("--net {}={}: give a number from {} to {}", key, *text, least, most));
  }
  return number;
}

std::optional<MacAddress> get_mac(const SpecString& settings) {
  const auto text = settings.get("mac");
  if (!text) return std::nullopt;
  const auto mac = MacAddress::parse(*text);
  if (!mac || mac->is_zero() || mac->is_multicast()) {
    throw ConfigError(
        fmt::format("--net mac={}: not the address of a card; write 52:54:00:12:34:56, with an "
                    "even first byte",
                    *text));
  }
  return mac;
}

RateLimiter::Bucket get_rate(const SpecString& settings) {
  const auto text = settings.get("rate");
  const uint64_t burst = settings.get_size("rate-burst", 0);
  if (!text) {
    if (burst != 0) throw ConfigError("--net rate-burst: goes with rate");
    return {};
  }
  const auto rate = parse_bit_rate(*text);
  if (!rate || *rate < kLeastRate) {
    throw ConfigError(
        fmt::format("--net rate={}: give bits a second, at least 8k: 10M, 2.5G; or leave it out", *text));
  }
  return {*rate / 8, burst};
}

uint32_t get_speed(const SpecString& settings) {
  constexpr uint64_t kMbit = 1'000'000;
  const auto text = settings.get("speed");
  if (!text) return 0;
  const uint64_t speed = parse_bit_rate(*text).value_or(0) / kMbit;
  if (speed == 0 || speed > kMostLinkSpeed) {
    throw ConfigError(
        fmt::format("--net speed={}: give the link's bits a second, at least 1M: 100M, 10G", *text));
  }
  return static_cast<uint32_t>(speed);
}

std::vector<std::string_view> known_keys(const NetBackendType* backend) {
  std::vector<std::string_view> keys(kCommonKeys.begin(), kCommonKeys.end());
  if (backend != nullptr) keys.insert(keys.end(), backend->keys.begin(), backend->keys.end());
  return keys;
}

// What stands before the first setting. "mac=..." alone is a setting of the default back end.
std::string backend_of(std::string_view text) {
  std::string head = spec_head(text);
  return head.contains('=') ? "" : head;
}

}  // namespace

NetSpec parse_net_spec(std::string_view text) {
  std::string name = backend_of(text);
  if (name.empty()) name = spec_head(kDefaultNetSpec);
  const NetBackendType* backend = find_net_backend(name);
  if (backend == nullptr && name != kNoNet) {
    std::string choices(kNoNet);
    for (const NetBackendType& known : net_backend_types()) choices += fmt::format(", {}", known.name);
    throw ConfigError(fmt::format("--net {}: name the network first, one of {}", text, choices));
  }
  NetSpec spec{.backend = std::move(name), .settings = SpecString("--net", text, known_keys(backend))};
  spec.mac = get_mac(spec.settings);
  spec.mtu = get_number(spec.settings, "mtu", kMinNetMtu, 65535).value_or(0);
  spec.rate = get_rate(spec.settings);
  spec.speed = get_speed(spec.settings);
  spec.queues = get_number(spec.settings, "queues", 1, kMaxNetPairs);
  if (const auto pcap = spec.settings.get("pcap")) {
    if (pcap->empty() || *pcap == "on") throw ConfigError("--net pcap: name the file that gets the frames");
    spec.pcap = *pcap;
  }
  return spec;
}

std::optional<uint64_t> parse_bit_rate(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || number < 0) return std::nullopt;
  std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  double scale = 1;
  if (!unit.empty()) {
    switch (unit[0]) {
      case 'k':
      case 'K': scale = 1e3; break;
      case 'm':
      case 'M': scale = 1e6; break;
      case 'g':
      case 'G': scale = 1e9; break;
      default: return std::nullopt;
    }
    unit.remove_prefix(1);
  }
  if (!unit.empty() && unit != "bit" && unit != "bps") return std::nullopt;
  const double bits = number * scale;
  if (!(bits < 1e15)) return std::nullopt;  // also what is no number
  return static_cast<uint64_t>(bits);
}

}  // namespace minivmm
