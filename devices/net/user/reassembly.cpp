#include "devices/net/user/reassembly.h"

#include <algorithm>

namespace minivmm::user_net {

namespace {

constexpr uint16_t kMoreFragments = 0x2000;
constexpr uint16_t kOffsetMask = 0x1fff;
constexpr size_t kMaxDatagram = 65535;  // RFC 791, total length

// RFC 791, 3.2: fragments of one datagram share identification, protocol and both addresses.
bool same_datagram(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  const uint8_t* const x = a.data() + kEthernetHeader;
  const uint8_t* const y = b.data() + kEthernetHeader;
  return std::equal(x + 4, x + 6, y + 4) && x[9] == y[9] && std::equal(x + 12, x + 20, y + 12);
}

}  // namespace

Reassembly::Slot* Reassembly::begin(const Packet& first) {
  Slot* slot = slot_of(first);
  if (slot == nullptr) slot = &*std::ranges::min_element(slots_, {}, &Slot::used);
  slot->frame.assign(first.frame.begin(), first.frame.end());
  slot->used = ++now_;
  return slot;
}

Reassembly::Slot* Reassembly::slot_of(const Packet& fragment) {
  for (Slot& slot : slots_) {
    if (!slot.frame.empty() && same_datagram(slot.frame, fragment.frame)) return &slot;
  }
  return nullptr;
}

std::optional<std::span<uint8_t>> Reassembly::add(const Packet& fragment) {
  if (fragment.is_tcp()) return std::nullopt;
  const uint16_t field = load16(fragment.frame.data() + kEthernetHeader + 6);
  const size_t offset = size_t{field} % (kOffsetMask + 1) * 8;
  const auto data = fragment.frame.subspan(fragment.transport);
  if (data.empty() || kIpv4Header + offset + data.size() > kMaxDatagram) return std::nullopt;
  if (offset == 0) {
    begin(fragment);
    return std::nullopt;
  }
  Slot* const slot = slot_of(fragment);
  if (slot == nullptr) return std::nullopt;
  if (slot->frame.size() != fragment.transport + offset) {  // one is missing or came twice
    slot->frame.clear();
    return std::nullopt;
  }
  slot->frame.insert(slot->frame.end(), data.begin(), data.end());
  slot->used = ++now_;
  if ((field & kMoreFragments) != 0) return std::nullopt;
  uint8_t* const ip = slot->frame.data() + kEthernetHeader;
  store16(ip + 2, static_cast<uint16_t>(slot->frame.size() - kEthernetHeader));
  store16(ip + 6, 0);
  fill_in_ipv4_sum(slot->frame);
  std::swap(whole_, slot->frame);
  slot->frame.clear();
  return whole_;
}

}  // namespace minivmm::user_net
