// Large segments between libslirp and the guest. libslirp takes and makes TCP segments of nearly 64 KiB; with
// segmentation offload the guest does as well, whatever its MTU is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

#include "devices/net/net_backend.h"
#include "devices/net/user/packet.h"

namespace minivmm::user_net {

struct GuestLink {
  NetOffloads allowed = 0;  // what the guest takes
  uint16_t mtu = 1500;
  uint16_t mss = 0;  // of the connection in hand: bytes of data in a segment at most; 0: what the MTU leaves
};

// A segment with SYN of the guest's, in a buffer that has kMssOption bytes of room behind the frame: has
// libslirp send as large segments as the guest takes. Returns GuestLink::mss of that connection: where the
// guest opens it, libslirp does not look at the option (it connects on the host first, and answers later
// without the options), and sends what its own MTU allows.
inline constexpr size_t kMssOption = 4;
uint16_t settle_segment_size(Packet&, const GuestLink&);

// What stands in front of the frame on its way to the guest (virtio 1.2, 5.1.6.1); may prepare its checksum
// for it. False: the guest does not take a TCP segment of that size, and has to be given cut_segments() of
// it, each with that header.
bool describe_frame(Packet&, const GuestLink&, std::span<uint8_t, kNetHeaderSize> header);

// How much data each of them has at most. 0: it cannot be cut (libslirp makes no TCP of that kind).
size_t segment_room(const Packet&, const GuestLink&);
// A frame of its own, in `scratch`, with these bytes of the segment's data.
std::span<const uint8_t> make_segment(const Packet&, size_t at, size_t size, std::span<uint8_t> scratch);
template <class Emit>
void cut_segments(const Packet& packet, const GuestLink& link, std::span<uint8_t> scratch, Emit emit) {
  const size_t most = segment_room(packet, link);
  if (most == 0) return;
  for (size_t at = 0; at < packet.payload_size(); at += most) {
    emit(make_segment(packet, at, std::min(most, packet.payload_size() - at), scratch));
  }
}

// Whether it has to go as fragments (an IPv4 packet other than TCP past the MTU), and these.
bool needs_fragments(const Packet&, const GuestLink&);
template <class Emit>
void cut_fragments(const Packet& packet, const GuestLink& link, std::span<uint8_t> scratch, Emit emit) {
  // RFC 791, 3.2: data in multiples of 8 bytes.
  const size_t most = (size_t{link.mtu} - kIpv4Header) / 8 * 8;
  const auto data = packet.frame.subspan(packet.transport);
  for (size_t at = 0; at < data.size(); at += most) {
    const size_t n = std::min(most, data.size() - at);
    const auto fragment = scratch.first(packet.transport + n);
    std::memcpy(fragment.data(), packet.frame.data(), packet.transport);
    std::memcpy(fragment.data() + packet.transport, data.data() + at, n);
    uint8_t* const ip = fragment.data() + kEthernetHeader;
    constexpr uint16_t kMoreFragments = 0x2000;
    store16(ip + 2, static_cast<uint16_t>(kIpv4Header + n));
    store16(ip + 6, static_cast<uint16_t>(at / 8 | (at + n < data.size() ? kMoreFragments : 0)));
    fill_in_ipv4_sum(fragment);
    emit(std::span<const uint8_t>(fragment));
  }
}

}  // namespace minivmm::user_net
