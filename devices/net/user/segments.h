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
};

// A segment with SYN of the guest's, in a buffer that has kMssOption bytes of room behind the frame: has
// libslirp send as large segments as the guest takes.
inline constexpr size_t kMssOption = 4;
void settle_segment_size(Packet&, const GuestLink&);

// What stands in front of the frame on its way to the guest (virtio 1.2, 5.1.6.1); may prepare its checksum
// for it. False: the guest does not take a frame of that size.
bool describe_frame(Packet&, const GuestLink&, std::span<uint8_t, kNetHeaderSize> header);

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
