#include "devices/net/user/packet.h"

#include <algorithm>
#include <bit>

namespace minivmm::user_net {

namespace {

constexpr size_t kArpPacket = 28;
constexpr size_t kIcmpHeader = 8;
constexpr uint16_t kMoreOrOffset = 0x3fff;  // of IPv4's flags and fragment offset

bool parse_transport(Packet& packet) {
  const size_t size = packet.frame.size() - packet.transport;
  const uint8_t* const header = packet.header();
  switch (packet.protocol) {
    case IPPROTO_TCP: {
      if (size < kTcpHeader) return false;
      const size_t length = size_t{header[12]} >> 4 << 2;
      if (length < kTcpHeader || length > size) return false;
      packet.tcp_flags = header[13];
      packet.sequence = load32(header + 4);
      packet.acknowledged = load32(header + 8);
      packet.payload = packet.transport + length;
      break;
    }
    case IPPROTO_UDP:
      if (size < kUdpHeader || load16(header + 4) != size) return false;
      packet.payload = packet.transport + kUdpHeader;
      break;
    case IPPROTO_ICMP:
      packet.payload = packet.transport + kIcmpHeader;
      return !packet.v6 && size >= kIcmpHeader;
    case IPPROTO_ICMPV6:
      packet.payload = packet.transport + kIcmpHeader;
      return packet.v6 && size >= kIcmpHeader;
    default: return false;
  }
  packet.source.port = load16(header);
  packet.destination.port = load16(header + 2);
  return true;
}

bool parse_ipv4(Packet& packet) {
  const uint8_t* const ip = packet.frame.data() + kEthernetHeader;
  if (packet.frame.size() < kEthernetHeader + kIpv4Header || ip[0] != 0x45) return false;
  const size_t length = load16(ip + 2);
  if (length < kIpv4Header || length > packet.frame.size() - kEthernetHeader) return false;
  packet.frame = packet.frame.first(kEthernetHeader + length);
  packet.transport = kEthernetHeader + kIpv4Header;
  packet.protocol = ip[9];
  packet.source.address = IpAddress::v4(load32(ip + 12));
  packet.destination.address = IpAddress::v4(load32(ip + 16));
  packet.fragment = (load16(ip + 6) & kMoreOrOffset) != 0;
  return packet.fragment || parse_transport(packet);
}

bool parse_ipv6(Packet& packet) {
  const uint8_t* const ip = packet.frame.data() + kEthernetHeader;
  if (packet.frame.size() < kEthernetHeader + kIpv6Header || ip[0] >> 4 != 6) return false;
  const size_t length = load16(ip + 4);
  if (length > packet.frame.size() - kEthernetHeader - kIpv6Header) return false;
  packet.v6 = true;
  packet.frame = packet.frame.first(kEthernetHeader + kIpv6Header + length);
  packet.transport = kEthernetHeader + kIpv6Header;
  packet.protocol = ip[6];
  packet.source.address = IpAddress::v6(ip + 8);
  packet.destination.address = IpAddress::v6(ip + 24);
  return parse_transport(packet);
}

// RFC 1624, equation 3: HC' = ~(~HC + ~m + m'). Zero stands for "no checksum" in UDP.
void correct_sum(uint8_t* sum, std::span<const uint8_t> before, std::span<const uint8_t> after, bool udp) {
  uint16_t old = 0;
  std::memcpy(&old, sum, sizeof old);
  if (udp && old == 0) return;
  uint64_t total = static_cast<uint16_t>(~old);
  for (size_t i = 0; i < before.size(); i += 2) {
    uint16_t was = 0;
    uint16_t is = 0;
    std::memcpy(&was, before.data() + i, sizeof was);
    std::memcpy(&is, after.data() + i, sizeof is);
    total += static_cast<uint16_t>(~was);
    total += is;
  }
  uint16_t now = fold_sum(total);
  if (udp && now == 0) now = 0xffff;
  std::memcpy(sum, &now, sizeof now);
}

void set_endpoint(Packet& packet, Endpoint& current, const Endpoint& wanted, bool source) {
  uint8_t* const frame = packet.frame.data();
  uint8_t* const sum = packet.header() + (packet.is_tcp() ? kTcpSumOffset : kUdpSumOffset);
  const size_t length = packet.v6 ? 16 : 4;
  uint8_t* const at =
      packet.v6 ? frame + kEthernetHeader + (source ? 8 : 24) : frame + kEthernetHeader + (source ? 12 : 16);
  const auto address = std::span(wanted.address.bytes).last(length);
  const std::span<const uint8_t> before(at, length);
  if (!packet.v6) correct_sum(frame + kEthernetHeader + 10, before, address, false);
  correct_sum(sum, before, address, packet.is_udp());
  std::copy(address.begin(), address.end(), at);

  uint8_t* const port_at = packet.header() + (source ? 0 : 2);
  std::array<uint8_t, 2> port{};
  store16(port.data(), wanted.port);
  correct_sum(sum, std::span<const uint8_t>(port_at, 2), port, packet.is_udp());
  std::copy(port.begin(), port.end(), port_at);
  current = wanted;
}

}  // namespace

IpAddress IpAddress::v4(uint32_t host_order) {
  IpAddress address;
  address.bytes[10] = address.bytes[11] = 0xff;
  store32(address.bytes.data() + 12, host_order);
  return address;
}

IpAddress IpAddress::v6(const uint8_t* bytes) {
  IpAddress address;
  std::copy_n(bytes, address.bytes.size(), address.bytes.begin());
  return address;
}

bool IpAddress::is_v4() const {
  static constexpr std::array<uint8_t, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return std::equal(kMapped.begin(), kMapped.end(), bytes.begin());
}

bool IpAddress::in_prefix(const IpAddress& prefix, unsigned bits) const {
  const size_t whole = bits / 8;
  if (!std::equal(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(whole), prefix.bytes.begin())) {
    return false;
  }
  return bits % 8 == 0 || ((bytes[whole] ^ prefix.bytes[whole]) >> (8 - bits % 8)) == 0;
}

std::optional<Packet> parse_packet(std::span<uint8_t> frame) {
  if (frame.size() < kEthernetHeader) return std::nullopt;
  Packet packet;
  packet.frame = frame;
  packet.ether_type = load16(frame.data() + 12);
  switch (packet.ether_type) {
    case kEtherArp:
      if (frame.size() < kEthernetHeader + kArpPacket) return std::nullopt;
      return packet;
    case kEtherIpv4:
      if (!parse_ipv4(packet)) return std::nullopt;
      return packet;
    case kEtherIpv6:
      if (!parse_ipv6(packet)) return std::nullopt;
      return packet;
    default: return std::nullopt;
  }
}

uint64_t add_to_sum(uint64_t sum, std::span<const uint8_t> bytes) {
  // In the machine's byte order: the result is the same once stored so (RFC 1071, 2(B)). Four 32-bit words in
  // a 64-bit sum each: it cannot overflow within a frame.
  const uint8_t* at = bytes.data();
  size_t left = bytes.size();
  uint64_t other = 0;
  for (; left >= 16; left -= 16, at += 16) {
    std::array<uint32_t, 4> words;
    std::memcpy(words.data(), at, sizeof words);
    sum += uint64_t{words[0]} + words[1];
    other += uint64_t{words[2]} + words[3];
  }
  sum += other;
  for (; left >= 2; left -= 2, at += 2) {
    uint16_t word = 0;
    std::memcpy(&word, at, sizeof word);
    sum += word;
  }
  if (left != 0) {
    uint16_t word = 0;
    std::memcpy(&word, at, 1);
    sum += word;
  }
  return sum;
}

uint16_t fold_sum(uint64_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

uint64_t pseudo_sum(const Packet& packet) {
  const uint8_t* const addresses = packet.frame.data() + kEthernetHeader + (packet.v6 ? 8 : 12);
  const uint64_t sum = add_to_sum(0, {addresses, packet.v6 ? size_t{32} : size_t{8}});
  std::array<uint8_t, 8> rest{};
  store32(rest.data(), static_cast<uint32_t>(packet.frame.size() - packet.transport));
  rest[7] = packet.protocol;
  return add_to_sum(sum, rest);
}

void fill_in_transport_sum(Packet& packet) {
  uint8_t* const at = packet.header() + (packet.is_tcp() ? kTcpSumOffset : kUdpSumOffset);
  store16(at, 0);
  uint16_t sum = fold_sum(add_to_sum(pseudo_sum(packet), packet.frame.subspan(packet.transport)));
  if (packet.is_udp() && sum == 0) sum = 0xffff;
  std::memcpy(at, &sum, sizeof sum);
}

void fill_in_ipv4_sum(std::span<uint8_t> frame) {
  const auto header = frame.subspan(kEthernetHeader, kIpv4Header);
  store16(header.data() + 10, 0);
  const uint16_t sum = fold_sum(add_to_sum(0, header));
  std::memcpy(header.data() + 10, &sum, sizeof sum);
}

void set_source(Packet& packet, const Endpoint& source) {
  set_endpoint(packet, packet.source, source, true);
}

void set_destination(Packet& packet, const Endpoint& destination) {
  set_endpoint(packet, packet.destination, destination, false);
}

size_t make_reset(const Packet& to, std::span<uint8_t, kMaxResetFrame> out) {
  // RFC 9293, 3.10.7.1: to a segment with ACK, the reset has its number; otherwise it acknowledges all of it.
  const size_t size = to.transport + kTcpHeader;
  std::copy_n(to.frame.begin(), to.transport, out.begin());
  std::swap_ranges(out.begin(), out.begin() + 6, out.begin() + 6);
  uint8_t* const ip = out.data() + kEthernetHeader;
  if (to.v6) {
    std::swap_ranges(ip + 8, ip + 24, ip + 24);
    store16(ip + 4, kTcpHeader);
  } else {
    std::swap_ranges(ip + 12, ip + 16, ip + 16);
    store16(ip + 2, kIpv4Header + kTcpHeader);
    fill_in_ipv4_sum(out.first(size));
  }
  uint8_t* const tcp = out.data() + to.transport;
  std::fill_n(tcp, kTcpHeader, uint8_t{0});
  store16(tcp, to.destination.port);
  store16(tcp + 2, to.source.port);
  tcp[12] = kTcpHeader / 4 << 4;
  if ((to.tcp_flags & kTcpAck) != 0) {
    store32(tcp + 4, to.acknowledged);
    tcp[13] = kTcpRst;
  } else {
    const uint32_t counted =
        ((to.tcp_flags & kTcpSyn) != 0 ? 1U : 0U) + ((to.tcp_flags & kTcpFin) != 0 ? 1U : 0U);
    store32(tcp + 8, to.sequence + static_cast<uint32_t>(to.payload_size()) + counted);
    tcp[13] = kTcpRst | kTcpAck;
  }
  Packet reset;
  reset.frame = out.first(size);
  reset.v6 = to.v6;
  reset.protocol = IPPROTO_TCP;
  reset.transport = to.transport;
  fill_in_transport_sum(reset);
  return size;
}

}  // namespace minivmm::user_net
