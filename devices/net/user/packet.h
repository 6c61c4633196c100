// What is looked at in the frames between the guest and libslirp.
#pragma once

#include <netinet/in.h>

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace minivmm::user_net {

inline constexpr size_t kEthernetHeader = 14;
inline constexpr size_t kIpv4Header = 20;  // without options
inline constexpr size_t kIpv6Header = 40;
inline constexpr size_t kTcpHeader = 20;  // without options
inline constexpr size_t kUdpHeader = 8;

inline constexpr uint16_t kEtherIpv4 = 0x0800;
inline constexpr uint16_t kEtherArp = 0x0806;
inline constexpr uint16_t kEtherIpv6 = 0x86dd;

// RFC 9293, 3.1
inline constexpr uint8_t kTcpFin = 0x01;
inline constexpr uint8_t kTcpSyn = 0x02;
inline constexpr uint8_t kTcpRst = 0x04;
inline constexpr uint8_t kTcpPush = 0x08;
inline constexpr uint8_t kTcpAck = 0x10;
inline constexpr size_t kTcpSumOffset = 16;  // in its header
inline constexpr size_t kUdpSumOffset = 6;

// Network byte order.
inline uint16_t load16(const uint8_t* at) {
  return static_cast<uint16_t>(at[0] << 8 | at[1]);
}
inline uint32_t load32(const uint8_t* at) {
  return uint32_t{load16(at)} << 16 | load16(at + 2);
}
inline void store16(uint8_t* at, uint16_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}
inline void store32(uint8_t* at, uint32_t value) {
  store16(at, static_cast<uint16_t>(value >> 16));
  store16(at + 2, static_cast<uint16_t>(value));
}

// An IPv4 address is in the last four bytes, as in ::ffff:a.b.c.d.
struct IpAddress {
  std::array<uint8_t, 16> bytes{};

  static IpAddress v4(uint32_t host_order);
  static IpAddress v6(const uint8_t* bytes);
  bool is_v4() const;
  uint32_t as_v4() const { return load32(bytes.data() + 12); }  // host order
  // The first `bits` of an IPv6 address are those of `prefix`.
  bool in_prefix(const IpAddress& prefix, unsigned bits) const;
  auto operator<=>(const IpAddress&) const = default;
};

struct Endpoint {
  IpAddress address;
  uint16_t port = 0;
  auto operator<=>(const Endpoint&) const = default;
};

// One frame, with its padding cut off. Everything that an offset here points to lies within it.
struct Packet {
  std::span<uint8_t> frame;
  uint16_t ether_type = 0;
  bool v6 = false;
  uint8_t protocol = 0;   // of IP
  bool fragment = false;  // of an IPv4 datagram: nothing below `transport` is filled in
  size_t transport = 0;   // where the header after IP's begins
  Endpoint source;        // ports: TCP's and UDP's
  Endpoint destination;
  uint8_t tcp_flags = 0;
  uint32_t sequence = 0;
  uint32_t acknowledged = 0;
  size_t payload = 0;  // where TCP's or UDP's data begin

  bool is_tcp() const { return protocol == IPPROTO_TCP; }
  bool is_udp() const { return protocol == IPPROTO_UDP; }
  size_t payload_size() const { return frame.size() - payload; }
  // A TCP segment that asks for a new connection.
  bool opens() const { return is_tcp() && (tcp_flags & (kTcpSyn | kTcpAck)) == kTcpSyn; }
  uint8_t* header() { return frame.data() + transport; }  // TCP's or UDP's
  const uint8_t* header() const { return frame.data() + transport; }
};

// An ARP packet, or an IPv4 or IPv6 packet without options or extension headers, with TCP, UDP or ICMP
// inside; lengths that fit each other. Nothing else: libslirp understands no more than that.
std::optional<Packet> parse_packet(std::span<uint8_t> frame);

// The ones' complement sum (RFC 1071) of `bytes` on top of `sum`, not yet folded; and what goes into a
// header.
uint64_t add_to_sum(uint64_t sum, std::span<const uint8_t> bytes);
uint16_t fold_sum(uint64_t sum);
// Of TCP's, UDP's or ICMPv6's pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
uint64_t pseudo_sum(const Packet&);

// Computes TCP's or UDP's checksum anew, and IPv4's.
void fill_in_transport_sum(Packet&);
void fill_in_ipv4_sum(std::span<uint8_t> frame);

// Another address and port, with the checksums corrected (RFC 1624).
void set_source(Packet&, const Endpoint&);
void set_destination(Packet&, const Endpoint&);

// What a host that does not listen there answers to a segment: `size` bytes of frame in `out`.
inline constexpr size_t kMaxResetFrame = kEthernetHeader + kIpv6Header + kTcpHeader;
size_t make_reset(const Packet& to, std::span<uint8_t, kMaxResetFrame> out);

}  // namespace minivmm::user_net
