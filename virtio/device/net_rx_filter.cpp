#include "virtio/device/net_rx_filter.h"

#include <cstring>

#include "virtio/device/net_spec.h"
#include "vmm/core/state.h"

namespace minivmm::net {

namespace {

enum Field : uint16_t { kOwn = 1, kModes = 2, kUnicast = 3, kMulticast = 4, kVlans = 5, kOverflow = 6 };

constexpr MacAddress kBroadcast{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

// In the order of their bits.
constexpr std::array kModeFlags{&RxFilter::promisc,  &RxFilter::all_multi, &RxFilter::all_uni,
                                &RxFilter::no_multi, &RxFilter::no_uni,    &RxFilter::no_broadcast};

uint16_t big_endian(std::span<const std::byte> bytes, size_t at) {
  return static_cast<uint16_t>((std::to_integer<unsigned>(bytes[at]) << 8) |
                               std::to_integer<unsigned>(bytes[at + 1]));
}

void save_table(StateWriter& out, uint16_t id, const MacTable& table) {
  out.bytes(id, std::as_bytes(table.used()));
}

Result<MacTable> parse_table(const StateReader& in, uint16_t id) {
  const auto bytes = in.bytes(id, MacTable::kMost * sizeof(MacAddress));
  if (!bytes) return std::unexpected(bytes.error());
  if (bytes->size() % sizeof(MacAddress) != 0) return fail(Errc::corrupt, "a saved address table is torn");
  MacTable table;
  table.count = static_cast<uint8_t>(bytes->size() / sizeof(MacAddress));
  if (!bytes->empty()) std::memcpy(table.macs.data(), bytes->data(), bytes->size());
  return table;
}

}  // namespace

bool RxFilter::passes(std::span<const std::byte> head) const {
  if (promisc) return true;  // 5.1.6.5.1: whatever else is on
  if (head.size() < kEthernetHeader) return false;
  if (vlan_filter && head.size() >= kRxFilterLook && big_endian(head, 12) == 0x8100) {
    const unsigned id = big_endian(head, 14) & 0xfffU;
    if (id != 0 && !vlans[id]) return false;  // 0 is no VLAN, but a priority (IEEE 802.1Q, 9.6)
  }
  MacAddress to;
  std::memcpy(to.bytes.data(), head.data(), to.bytes.size());
  if (to == kBroadcast) return !no_broadcast;
  if (to.is_multicast()) return !no_multi && (all_multi || multicast.has(to));
  return !no_uni && (all_uni || to == own || unicast.has(to));
}

void RxFilter::save(StateWriter& out) const {
  uint8_t modes = 0;
  for (size_t i = 0; i < kModeFlags.size(); ++i) {
    if (this->*kModeFlags[i]) modes = static_cast<uint8_t>(modes | (1U << i));
  }
  out.bytes(kOwn, std::as_bytes(std::span(own.bytes)));
  out.field(kModes, modes);
  save_table(out, kUnicast, unicast);
  save_table(out, kMulticast, multicast);
  out.field(kOverflow, static_cast<uint8_t>((unicast.overflown ? 1 : 0) | (multicast.overflown ? 2 : 0)));
  std::array<uint8_t, 512> bits{};
  for (size_t i = 0; i < vlans.size(); ++i) {
    if (vlans[i]) bits[i / 8] = static_cast<uint8_t>(bits[i / 8] | (1U << (i % 8)));
  }
  out.bytes(kVlans, std::as_bytes(std::span(bits)));
}

Result<RxFilter> RxFilter::parse(const StateReader& in) {
  RxFilter filter;
  const auto own = in.bytes(kOwn, sizeof(MacAddress));
  const auto modes = in.need<uint8_t>(kModes);
  const auto overflow = in.need<uint8_t>(kOverflow);
  const auto unicast = parse_table(in, kUnicast);
  const auto multicast = parse_table(in, kMulticast);
  const auto vlans = in.bytes(kVlans, 512);
  if (!own || own->size() != sizeof(MacAddress) || !modes || !overflow || !unicast || !multicast || !vlans ||
      vlans->size() != 512) {
    return fail(Errc::corrupt, "a saved network card without its receive filter");
  }
  if (auto finished = in.finish(); !finished) return std::unexpected(finished.error());
  std::memcpy(filter.own.bytes.data(), own->data(), own->size());
  if (filter.own.is_multicast()) return fail(Errc::corrupt, "a saved network card has a group's address");
  for (size_t i = 0; i < kModeFlags.size(); ++i) filter.*kModeFlags[i] = (*modes & (1U << i)) != 0;
  filter.unicast = *unicast;
  filter.multicast = *multicast;
  filter.unicast.overflown = (*overflow & 1) != 0;
  filter.multicast.overflown = (*overflow & 2) != 0;
  for (size_t i = 0; i < filter.vlans.size(); ++i) {
    filter.vlans[i] = (std::to_integer<unsigned>((*vlans)[i / 8]) & (1U << (i % 8))) != 0;
  }
  return filter;
}

}  // namespace minivmm::net
