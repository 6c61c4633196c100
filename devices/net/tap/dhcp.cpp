#include "devices/net/tap/dhcp.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace minivmm {

namespace {

// RFC 2131, 2; RFC 2132, 3 and 9.
constexpr size_t kEthernet = 14;
constexpr size_t kIpv4 = 20;
constexpr size_t kUdp = 8;
constexpr size_t kBootp = 236;
constexpr uint32_t kCookie = 0x63825363;
constexpr uint16_t kServerPort = 67;
constexpr uint16_t kClientPort = 68;
constexpr uint16_t kBroadcastFlag = 0x8000;
constexpr uint32_t kLeaseSeconds = 86'400;

enum Option : uint8_t {
  kPad = 0,
  kSubnetMask = 1,
  kRequestedAddress = 50,
  kLeaseTime = 51,
  kMessageType = 53,
  kServerIdentifier = 54,
  kEnd = 255,
};
enum MessageType : uint8_t { kDiscover = 1, kOffer = 2, kRequest = 3, kAck = 5, kNak = 6 };

uint16_t get16(std::span<const std::byte> bytes, size_t at) {
  return static_cast<uint16_t>(std::to_integer<unsigned>(bytes[at]) << 8 |
                               std::to_integer<unsigned>(bytes[at + 1]));
}
uint32_t get32(std::span<const std::byte> bytes, size_t at) {
  return uint32_t{get16(bytes, at)} << 16 | get16(bytes, at + 2);
}

void put(std::vector<std::byte>& out, uint64_t value, unsigned size) {
  while (size-- > 0) out.push_back(static_cast<std::byte>(value >> (8 * size)));
}

struct Question {
  MessageType type{};
  uint32_t transaction = 0;
  uint16_t flags = 0;
  uint32_t client_address = 0;  // the one it has; 0: none
  MacAddress card;
  std::optional<uint32_t> requested;
  std::optional<uint32_t> server;
};

bool take_options(std::span<const std::byte> options, Question& question) {
  std::optional<uint8_t> type;
  while (!options.empty()) {
    const auto code = std::to_integer<uint8_t>(options[0]);
    if (code == kEnd) break;
    if (code == kPad) {
      options = options.subspan(1);
      continue;
    }
    if (options.size() < 2) return false;
    const auto length = std::to_integer<size_t>(options[1]);
    if (options.size() < 2 + length) return false;
    const auto value = options.subspan(2, length);
    if (code == kMessageType && length == 1) type = std::to_integer<uint8_t>(value[0]);
    if (code == kRequestedAddress && length == 4) question.requested = get32(value, 0);
    if (code == kServerIdentifier && length == 4) question.server = get32(value, 0);
    options = options.subspan(2 + length);
  }
  if (type != kDiscover && type != kRequest) return false;
  question.type = static_cast<MessageType>(*type);
  return true;
}

std::optional<Question> parse(std::span<const std::byte> frame) {
  if (frame.size() < kEthernet + kIpv4 || get16(frame, 12) != 0x0800) return std::nullopt;
  auto ip = frame.subspan(kEthernet);
  const size_t ip_header = (std::to_integer<size_t>(ip[0]) & 15) * 4;
  const size_t ip_total = get16(ip, 2);
  if (std::to_integer<unsigned>(ip[0]) >> 4 != 4 || ip_header < kIpv4 || ip_total > ip.size() ||
      ip_total < ip_header + kUdp + kBootp + 4) {
    return std::nullopt;
  }
  if (std::to_integer<unsigned>(ip[9]) != 17 || (get16(ip, 6) & 0x3fff) != 0)
    return std::nullopt;  // a fragment
  const auto udp = ip.subspan(ip_header, ip_total - ip_header);
  const size_t udp_length = get16(udp, 4);
  if (get16(udp, 2) != kServerPort || udp_length > udp.size() || udp_length < kUdp + kBootp + 4)
    return std::nullopt;
  const auto bootp = udp.subspan(kUdp, udp_length - kUdp);
  // A question (1), of Ethernet (1), with addresses of 6 bytes, not by a relay.
  if (get16(bootp, 0) != 0x0101 || std::to_integer<unsigned>(bootp[2]) != 6 || get32(bootp, 24) != 0 ||
      get32(bootp, kBootp) != kCookie) {
    return std::nullopt;
  }
  Question question;
  question.transaction = get32(bootp, 4);
  question.flags = get16(bootp, 10);
  question.client_address = get32(bootp, 12);
  std::memcpy(question.card.bytes.data(), bootp.data() + 28, question.card.bytes.size());
  if (question.card.is_multicast() || question.card.is_zero() ||
      !take_options(bootp.subspan(kBootp + 4), question)) {
    return std::nullopt;
  }
  return question;
}

uint16_t ip_checksum(std::span<const std::byte> header) {
  uint32_t sum = 0;
  for (size_t i = 0; i < header.size(); i += 2) sum += get16(header, i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

std::vector<std::byte> bootp_answer(const DhcpServer& server, const Question& question, MessageType type,
                                    uint32_t address) {
  std::vector<std::byte> out;
  put(out, 0x02010600, 4);  // an answer, Ethernet, 6 bytes, no hops
  put(out, question.transaction, 4);
  put(out, 0, 2);
  put(out, question.flags, 2);
  put(out, type == kAck ? question.client_address : 0, 4);
  put(out, address, 4);
  put(out, 0, 8);  // the next server's and a relay's address
  for (const uint8_t byte : question.card.bytes) put(out, byte, 1);
  out.resize(kBootp);
  put(out, kCookie, 4);
  put(out, uint32_t{kMessageType} << 16 | 1u << 8 | type, 3);
  put(out, uint32_t{kServerIdentifier} << 8 | 4, 2);
  put(out, server.network.address, 4);
  if (type != kNak) {
    put(out, uint32_t{kLeaseTime} << 8 | 4, 2);
    put(out, kLeaseSeconds, 4);
    put(out, uint32_t{kSubnetMask} << 8 | 4, 2);
    put(out, server.network.mask(), 4);
  }
  put(out, kEnd, 1);
  out.resize(std::max<size_t>(out.size(), 300));  // RFC 1542, 2.1: old clients want as much
  return out;
}

std::vector<std::byte> framed(const DhcpServer& server, const Question& question,
                              std::span<const std::byte> bootp, uint32_t address) {
  // RFC 2131, 4.1: to the address given, unless the client asks for broadcasts or is refused.
  const bool broadcast = (question.flags & kBroadcastFlag) != 0 || address == 0;
  std::vector<std::byte> out;
  for (const uint8_t byte : question.card.bytes) put(out, broadcast ? 0xff : byte, 1);
  for (const uint8_t byte : server.mac.bytes) put(out, byte, 1);
  put(out, 0x0800, 2);
  put(out, 0x4510, 2);
  put(out, kIpv4 + kUdp + bootp.size(), 2);
  put(out, 0, 4);
  put(out, 64 << 8 | 17, 2);  // time to live, UDP
  put(out, 0, 2);
  put(out, server.network.address, 4);
  put(out, broadcast ? 0xffffffff : address, 4);
  const uint16_t checksum = ip_checksum(std::span(out).subspan(kEthernet, kIpv4));
  out[kEthernet + 10] = static_cast<std::byte>(checksum >> 8);
  out[kEthernet + 11] = static_cast<std::byte>(checksum & 0xff);
  put(out, kServerPort, 2);
  put(out, kClientPort, 2);
  put(out, kUdp + bootp.size(), 2);
  put(out, 0, 2);  // no checksum, as IPv4 allows
  out.insert(out.end(), bootp.begin(), bootp.end());
  return out;
}

}  // namespace

std::optional<std::vector<std::byte>> answer_dhcp(const DhcpServer& server, std::span<const std::byte> frame,
                                                  const DhcpLease& lease) {
  const auto question = parse(frame);
  if (!question) return std::nullopt;
  if (question->server && *question->server != server.network.address) return std::nullopt;  // another's
  const auto address = lease(question->card);
  if (!address) return std::nullopt;
  MessageType type = kOffer;
  if (question->type == kRequest) {
    const uint32_t wanted = question->requested.value_or(question->client_address);
    type = wanted == *address ? kAck : kNak;
  }
  const uint32_t given = type == kNak ? 0 : *address;
  return framed(server, *question, bootp_answer(server, *question, type, given), given);
}

DhcpRange dhcp_range(const Ipv4Network& network) {
  const uint32_t hosts = ~network.mask() - 1;  // without the network's and the broadcast address
  if (hosts > 200) return {101, std::min(hosts - 100, 10'000u)};
  return {1, hosts};
}

}  // namespace minivmm
