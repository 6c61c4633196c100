// What stands in front of a frame: struct virtio_net_hdr_v1 (virtio 1.2, 5.1.6). From a guest or from another
// process it is untrusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "devices/net/net_backend.h"
#include "vmm/core/error.h"

namespace minivmm {

inline constexpr size_t kEthernetHeader = 14;

struct NetHeader {
  static constexpr uint8_t kNeedsChecksum = 1;  // flags
  static constexpr uint8_t kGsoTcp4 = 1;        // gso_type
  static constexpr uint8_t kGsoTcp6 = 4;
  static constexpr uint8_t kGsoUdp = 5;  // VIRTIO_NET_HDR_GSO_UDP_L4
  static constexpr uint8_t kGsoEcn = 0x80;

  uint8_t flags = 0;
  uint8_t gso_type = 0;
  uint16_t header_length = 0;
  uint16_t gso_size = 0;
  uint16_t checksum_start = 0;   // from the Ethernet header's beginning
  uint16_t checksum_offset = 0;  // from checksum_start

  // What its receiver must know how to do.
  NetOffloads needs() const;
};

// Less is no segment of any use, and one frame would become thousands.
inline constexpr uint16_t kMinGsoSize = 8;

// Reads the first kNetHeaderSize bytes of `head`, in front of a frame of `frame_size` bytes. What comes back
// makes sense for that frame; bits that only a trusted sender may set are gone. Errc::invalid: it makes none.
Result<NetHeader> check_net_header(std::span<const std::byte> head, size_t frame_size);

void store_net_header(const NetHeader& header, std::span<std::byte, kNetHeaderSize> out);

}  // namespace minivmm
