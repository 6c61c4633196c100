// Large TCP and UDP packets as a card with offloads sends them, and the proof that small ones are right.
#pragma once

#include <cstdint>

#include "devices/net/net_header.h"
#include "tests/unit/devices/net/frames.h"

namespace minivmm::test {

struct Packet {
  bool ip6 = false;
  bool tcp = true;
  bool vlan = false;
  size_t payload = 5000;
  uint16_t gso_size = 1448;  // 0: it is not to be cut
  uint8_t tcp_flags = 0x18;  // ACK, PSH

  size_t ip() const { return kNetHeaderSize + 14 + (vlan ? 4u : 0); }
  size_t transport() const { return ip() + (ip6 ? 40u : 20); }
  size_t data() const { return transport() + (tcp ? 20u : 8); }
};

inline uint16_t get_be16(const Bytes& bytes, size_t at) {
  return static_cast<uint16_t>(std::to_integer<unsigned>(bytes[at]) << 8 |
                               std::to_integer<unsigned>(bytes[at + 1]));
}
inline void put_be16(Bytes& bytes, size_t at, size_t value) {
  bytes[at] = static_cast<std::byte>(value >> 8 & 0xff);
  bytes[at + 1] = static_cast<std::byte>(value & 0xff);
}

inline uint32_t word_sum(const Bytes& bytes, size_t from, size_t to) {
  uint32_t sum = 0;
  for (size_t i = from; i < to; ++i)
    sum += std::to_integer<uint32_t>(bytes[i]) << ((i - from) % 2 == 0 ? 8 : 0);
  return sum;
}
inline uint16_t fold(uint32_t sum) {
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

// The sum of the pseudo header of the packet whose transport part is `size` bytes.
inline uint32_t pseudo_sum(const Bytes& frame, const Packet& packet, size_t size) {
  const size_t addresses = packet.ip() + (packet.ip6 ? 8 : 12);
  return word_sum(frame, addresses, packet.transport()) + static_cast<uint32_t>(size) + (packet.tcp ? 6 : 17);
}

inline Bytes make_packet(const Packet& packet) {
  Bytes frame = make_frame(mac(2), mac(1), 0);
  frame.resize(packet.data() + packet.payload);
  size_t type_at = kNetHeaderSize + 12;
  if (packet.vlan) {
    put_be16(frame, type_at, 0x8100);
    put_be16(frame, type_at + 2, 5);
    type_at += 4;
  }
  put_be16(frame, type_at, packet.ip6 ? 0x86dd : 0x0800);
  const size_t ip = packet.ip();
  const size_t transport_size = frame.size() - packet.transport();
  if (packet.ip6) {
    frame[ip] = std::byte{0x60};
    put_be16(frame, ip + 4, transport_size);
    frame[ip + 6] = std::byte{packet.tcp ? uint8_t{6} : uint8_t{17}};
    frame[ip + 7] = std::byte{64};
    for (size_t i = 0; i < 32; ++i) frame[ip + 8 + i] = static_cast<std::byte>(i * 7);
  } else {
    frame[ip] = std::byte{0x45};
    put_be16(frame, ip + 2, 20 + transport_size);
    put_be16(frame, ip + 4, 0xfffe);
    frame[ip + 8] = std::byte{64};
    frame[ip + 9] = std::byte{packet.tcp ? uint8_t{6} : uint8_t{17}};
    for (size_t i = 0; i < 8; ++i) frame[ip + 12 + i] = static_cast<std::byte>(10 + i);
    put_be16(frame, ip + 10, static_cast<uint16_t>(~fold(word_sum(frame, ip, ip + 20))));
  }
  const size_t at = packet.transport();
  put_be16(frame, at, 1234);
  put_be16(frame, at + 2, 80);
  if (packet.tcp) {
    put_be16(frame, at + 4, 0xffff);  // a sequence number that is about to wrap
    put_be16(frame, at + 6, 0xff00);
    frame[at + 12] = std::byte{0x50};
    frame[at + 13] = std::byte{packet.tcp_flags};
  } else {
    put_be16(frame, at + 4, transport_size);
  }
  for (size_t i = 0; i < packet.payload; ++i)
    frame[packet.data() + i] = static_cast<std::byte>(i * 31 + i / 251);
  const size_t checksum_offset = packet.tcp ? 16 : 6;
  put_be16(frame, at + checksum_offset, fold(pseudo_sum(frame, packet, transport_size)));

  NetHeader header{.flags = NetHeader::kNeedsChecksum};
  header.checksum_start = static_cast<uint16_t>(at - kNetHeaderSize);
  header.checksum_offset = static_cast<uint16_t>(checksum_offset);
  if (packet.gso_size != 0) {
    header.gso_type = !packet.tcp  ? NetHeader::kGsoUdp
                      : packet.ip6 ? NetHeader::kGsoTcp6
                                   : NetHeader::kGsoTcp4;
    header.gso_size = packet.gso_size;
    header.header_length = static_cast<uint16_t>(packet.data() - kNetHeaderSize);
  }
  store_net_header(header, std::span(frame).first<kNetHeaderSize>());
  return frame;
}

// Whether every checksum and length in it is right, and its header asks for nothing.
inline bool is_whole(const Bytes& frame, const Packet& packet) {
  const auto header = check_net_header(frame, frame.size() - kNetHeaderSize);
  if (!header || header->needs() != 0) return false;
  const size_t transport_size = frame.size() - packet.transport();
  if (packet.ip6) {
    if (get_be16(frame, packet.ip() + 4) != transport_size) return false;
  } else {
    if (get_be16(frame, packet.ip() + 2) != 20 + transport_size) return false;
    if (fold(word_sum(frame, packet.ip(), packet.transport())) != 0xffff) return false;
  }
  if (!packet.tcp && get_be16(frame, packet.transport() + 4) != transport_size) return false;
  return fold(pseudo_sum(frame, packet, transport_size) +
              word_sum(frame, packet.transport(), frame.size())) == 0xffff;
}

}  // namespace minivmm::test
