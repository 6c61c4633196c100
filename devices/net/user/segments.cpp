#include "devices/net/user/segments.h"

#include <optional>

namespace minivmm::user_net {

namespace {

constexpr uint8_t kFlagNeedsCsum = 1;  // virtio 1.2, 5.1.6.1
constexpr uint8_t kFlagDataValid = 2;
constexpr uint8_t kGsoTcp4 = 1;
constexpr uint8_t kGsoTcp6 = 4;

// libslirp knows no window scaling, so that no more than 64 KiB is ever on its way. In two halves, the guest
// works on one while the next is made.
constexpr size_t kWindow = 65535;
constexpr size_t kSegmentsInWindow = 2;

constexpr uint8_t kOptionEnd = 0;  // RFC 9293, 3.2
constexpr uint8_t kOptionNothing = 1;
constexpr uint8_t kOptionMss = 2;

constexpr uint16_t kUsualMss4 = 536;  // RFC 9293, 3.7.1: what a peer that says nothing takes
constexpr uint16_t kUsualMss6 = 1220;
constexpr uint16_t kLeastMss = 88;  // as Linux's: a segment is not to become thousands

// Where the value of the option is, from the frame's start.
std::optional<size_t> find_mss(const Packet& packet) {
  size_t at = packet.transport + kTcpHeader;
  while (at < packet.payload) {
    const uint8_t kind = packet.frame[at];
    if (kind == kOptionEnd) return std::nullopt;
    if (kind == kOptionNothing) {
      ++at;
      continue;
    }
    if (at + 2 > packet.payload) return std::nullopt;
    const size_t length = packet.frame[at + 1];
    if (length < 2 || at + length > packet.payload) return std::nullopt;
    if (kind == kOptionMss && length == kMssOption) return at + 2;
    at += length;
  }
  return std::nullopt;
}

// Puts the option in front of the others; where its value is. None: the header is full.
std::optional<size_t> insert_mss(Packet& packet) {
  constexpr size_t kMaxHeader = 60;
  if (packet.payload - packet.transport + kMssOption > kMaxHeader) return std::nullopt;
  const size_t at = packet.transport + kTcpHeader;
  uint8_t* const frame = packet.frame.data();
  std::memmove(frame + at + kMssOption, frame + at, packet.frame.size() - at);
  frame[at] = kOptionMss;
  frame[at + 1] = kMssOption;
  packet.frame = {frame, packet.frame.size() + kMssOption};
  packet.payload += kMssOption;
  packet.header()[12] = static_cast<uint8_t>(packet.header()[12] + (kMssOption / 4 << 4));
  uint8_t* const length = frame + kEthernetHeader + (packet.v6 ? 4 : 2);
  store16(length, static_cast<uint16_t>(load16(length) + kMssOption));
  if (!packet.v6) fill_in_ipv4_sum(packet.frame);
  return at + 2;
}

uint16_t segment_size(bool v6, const GuestLink& link) {
  const auto fits = static_cast<uint16_t>(link.mtu - (v6 ? kIpv6Header : kIpv4Header) - kTcpHeader);
  return link.mss != 0 ? std::min(link.mss, fits) : fits;
}

}  // namespace

uint16_t settle_segment_size(Packet& packet, const GuestLink& link) {
  const uint16_t cut = segment_size(packet.v6, link);
  auto at = find_mss(packet);
  uint16_t mss = packet.v6 ? kUsualMss6 : kUsualMss4;
  if (at) mss = std::max(load16(packet.frame.data() + *at), kLeastMss);
  const uint16_t takes = std::min(mss, cut);
  if (!at) at = insert_mss(packet);
  if (!at) return takes;
  const NetOffloads wanted = packet.v6 ? net_offload::kTso6 : net_offload::kTso4;
  // One that takes less than the link does (a container with a smaller MTU behind the guest) could not be
  // given whole segments by the guest's own cutting.
  uint16_t said = takes;
  if (mss >= cut && (link.allowed & wanted) != 0) {
    said = static_cast<uint16_t>(std::max<size_t>(cut, kWindow / kSegmentsInWindow / cut * cut));
  }
  store16(packet.frame.data() + *at, said);
  fill_in_transport_sum(packet);
  return takes;
}

bool describe_frame(Packet& packet, const GuestLink& link, std::span<uint8_t, kNetHeaderSize> header) {
  std::ranges::fill(header, uint8_t{0});
  const size_t room = segment_room(packet, link);
  if (room == 0) return !packet.is_tcp();
  const bool large = packet.is_tcp() && packet.payload_size() > room;
  if ((link.allowed & net_offload::kChecksum) == 0 || !(packet.is_tcp() || packet.is_udp())) return !large;
  header[0] = kFlagDataValid;
  if (!large) return true;
  if ((link.allowed & (packet.v6 ? net_offload::kTso6 : net_offload::kTso4)) == 0) return false;
  const auto put = [&](size_t at, size_t value) {  // little-endian
    header[at] = static_cast<uint8_t>(value);
    header[at + 1] = static_cast<uint8_t>(value >> 8);
  };
  // 5.1.6.4.1: with a segmentation type the checksum is partial.
  header[0] = kFlagNeedsCsum;
  header[1] = packet.v6 ? kGsoTcp6 : kGsoTcp4;
  put(2, packet.payload);
  put(4, segment_size(packet.v6, link));
  put(6, packet.transport);
  put(8, kTcpSumOffset);
  const auto partial = static_cast<uint16_t>(~fold_sum(pseudo_sum(packet)));
  std::memcpy(packet.header() + kTcpSumOffset, &partial, sizeof partial);
  return true;
}

size_t segment_room(const Packet& packet, const GuestLink& link) {
  const size_t frame = kEthernetHeader + size_t{link.mtu};
  if (packet.fragment || packet.payload >= frame) return 0;
  return std::min<size_t>(segment_size(packet.v6, link), frame - packet.payload);
}

std::span<const uint8_t> make_segment(const Packet& packet, size_t at, size_t size,
                                      std::span<uint8_t> scratch) {
  const auto frame = scratch.first(packet.payload + size);
  std::memcpy(frame.data(), packet.frame.data(), packet.payload);
  std::memcpy(frame.data() + packet.payload, packet.frame.data() + packet.payload + at, size);
  uint8_t* const ip = frame.data() + kEthernetHeader;
  if (packet.v6) {
    store16(ip + 4, static_cast<uint16_t>(frame.size() - packet.transport));
  } else {
    store16(ip + 2, static_cast<uint16_t>(frame.size() - kEthernetHeader));
    fill_in_ipv4_sum(frame);
  }
  Packet segment = packet;
  segment.frame = frame;
  uint8_t* const tcp = segment.header();
  store32(tcp + 4, packet.sequence + static_cast<uint32_t>(at));
  if (at + size < packet.payload_size()) tcp[13] = static_cast<uint8_t>(tcp[13] & ~(kTcpFin | kTcpPush));
  fill_in_transport_sum(segment);
  return frame;
}

bool needs_fragments(const Packet& packet, const GuestLink& link) {
  return packet.ether_type == kEtherIpv4 && !packet.is_tcp() &&
         packet.frame.size() > kEthernetHeader + size_t{link.mtu};
}

}  // namespace minivmm::user_net
