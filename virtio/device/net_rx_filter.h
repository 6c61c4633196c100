// Which frames a card hands to its guest (virtio 1.2, 5.1.6.5.1 to 5.1.6.5.3). A plain value: workers keep a
// copy of their own.
#pragma once

#include <algorithm>
#include <array>
#include <bitset>
#include <cstdint>
#include <span>

#include "devices/net/mac_address.h"
#include "vmm/core/error.h"

namespace minivmm {

class StateReader;
class StateWriter;

namespace net {

// As many as were set, up to kMost; all, once more were set than it holds.
struct MacTable {
  static constexpr size_t kMost = 64;
  std::array<MacAddress, kMost> macs{};
  uint8_t count = 0;
  bool overflown = false;

  std::span<const MacAddress> used() const { return std::span(macs).first(count); }
  bool has(const MacAddress& mac) const {
    return overflown || std::ranges::find(used(), mac) != used().end();
  }
};

struct RxFilter {
  MacAddress own;
  // Until the driver says otherwise all frames pass: one without CTRL_RX could not ask for them.
  bool promisc = true;
  bool all_multi = false;
  bool all_uni = false;
  bool no_multi = false;
  bool no_uni = false;
  bool no_broadcast = false;
  MacTable unicast;
  MacTable multicast;
  bool vlan_filter = false;  // CTRL_VLAN was negotiated: only the tags in `vlans` pass
  std::bitset<4096> vlans;

  // `head` is the frame's first 18 bytes, or all of it.
  bool passes(std::span<const std::byte> head) const;

  void save(StateWriter&) const;
  static Result<RxFilter> parse(const StateReader&);  // leaves `vlan_filter` alone
};
inline constexpr size_t kRxFilterLook = 18;  // bytes: both addresses, the tag, the type

}  // namespace net
}  // namespace minivmm
