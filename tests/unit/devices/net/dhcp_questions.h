// What a DHCP client asks.
#pragma once

#include <cstdint>
#include <utility>

#include "tests/unit/devices/net/packets.h"

namespace minivmm::test {

inline constexpr size_t kDhcpIp = 14;  // in an Ethernet frame
inline constexpr size_t kDhcpBootp = kDhcpIp + 20 + 8;

inline void put_be32(Bytes& bytes, size_t at, uint32_t value) {
  put_be16(bytes, at, value >> 16);
  put_be16(bytes, at + 2, value & 0xffff);
}
inline uint32_t get_be32(const Bytes& bytes, size_t at) {
  return uint32_t{get_be16(bytes, at)} << 16 | get_be16(bytes, at + 2);
}

struct DhcpQuestion {
  uint8_t type = 1;  // DHCPDISCOVER
  uint32_t requested = 0;
  uint32_t server = 0;
  uint16_t flags = 0;
  MacAddress card = mac(1);
};

// An Ethernet frame, without a virtio header.
inline Bytes dhcp_question(const DhcpQuestion& q) {
  Bytes frame = packet_of(make_frame(kBroadcast, q.card, 0));
  put_be16(frame, 12, 0x0800);
  frame.resize(kDhcpBootp + 240);
  frame[kDhcpIp] = std::byte{0x45};
  frame[kDhcpIp + 8] = std::byte{64};
  frame[kDhcpIp + 9] = std::byte{17};
  put_be32(frame, kDhcpIp + 16, 0xffffffff);
  put_be16(frame, kDhcpIp + 20, 68);
  put_be16(frame, kDhcpIp + 22, 67);
  put_be32(frame, kDhcpBootp, 0x01010600);
  put_be32(frame, kDhcpBootp + 4, 0xabcdef01);
  put_be16(frame, kDhcpBootp + 10, q.flags);
  for (size_t i = 0; i < 6; ++i) frame[kDhcpBootp + 28 + i] = std::byte{q.card.bytes[i]};
  put_be32(frame, kDhcpBootp + 236, 0x63825363);
  const auto option = [&](uint8_t code, const Bytes& value) {
    frame.push_back(std::byte{code});
    frame.push_back(static_cast<std::byte>(value.size()));
    frame.insert(frame.end(), value.begin(), value.end());
  };
  option(53, {std::byte{q.type}});
  frame.push_back(std::byte{0});  // a pad
  for (const auto& [code, address] :
       {std::pair{uint8_t{50}, q.requested}, std::pair{uint8_t{54}, q.server}}) {
    Bytes value(4);
    put_be32(value, 0, address);
    if (address != 0) option(code, value);
  }
  frame.push_back(std::byte{255});
  put_be16(frame, kDhcpIp + 2, frame.size() - kDhcpIp);
  put_be16(frame, kDhcpIp + 24, frame.size() - kDhcpIp - 20);
  return frame;
}

}  // namespace minivmm::test
