#include "devices/net/net_header.h"

#include <algorithm>

namespace minivmm {

namespace {

uint16_t get_le16(std::span<const std::byte> bytes, size_t at) {
  return static_cast<uint16_t>(std::to_integer<unsigned>(bytes[at]) | std::to_integer<unsigned>(bytes[at + 1])
                                                                          << 8);
}

void put_le16(std::span<std::byte> bytes, size_t at, uint16_t value) {
  bytes[at] = static_cast<std::byte>(value & 0xff);
  bytes[at + 1] = static_cast<std::byte>(value >> 8);
}

Result<void> check_gso(const NetHeader& header, size_t frame_size) {
  const auto type = static_cast<uint8_t>(header.gso_type & ~NetHeader::kGsoEcn);
  const bool tcp = type == NetHeader::kGsoTcp4 || type == NetHeader::kGsoTcp6;
  if (!tcp && header.gso_type != NetHeader::kGsoUdp)
    return fail(Errc::invalid, "an unknown kind of segmentation");
  // virtio 1.2, 5.1.6.2.1: with one, the checksum is left to do as well.
  if ((header.flags & NetHeader::kNeedsChecksum) == 0)
    return fail(Errc::invalid, "segmentation without a checksum to be filled in");
  if (header.gso_size < kMinGsoSize || header.gso_size > frame_size)
    return fail(Errc::invalid, "segments of a size that makes no sense");
  return {};
}

}  // namespace

NetOffloads NetHeader::needs() const {
  using namespace net_offload;
  NetOffloads needs = 0;
  if ((flags & kNeedsChecksum) != 0) needs |= kChecksum;
  if ((gso_type & kGsoEcn) != 0) needs |= kTsoEcn;
  switch (gso_type & ~kGsoEcn) {
    case kGsoTcp4: needs |= kTso4; break;
    case kGsoTcp6: needs |= kTso6; break;
    case kGsoUdp: needs |= kUso; break;
    default: break;
  }
  return needs;
}

Result<NetHeader> check_net_header(std::span<const std::byte> head, size_t frame_size) {
  if (head.size() < kNetHeaderSize || frame_size < kEthernetHeader ||
      frame_size > kMaxFrame - kNetHeaderSize) {
    return fail(Errc::invalid, "a frame of a length that makes no sense");
  }
  NetHeader header;
  // Flags that are not known are ignored (5.1.6.2.2); that a checksum is right is not for a stranger to say.
  header.flags = std::to_integer<uint8_t>(head[0]) & NetHeader::kNeedsChecksum;
  header.gso_type = std::to_integer<uint8_t>(head[1]);
  if (header.flags != 0) {
    header.checksum_start = get_le16(head, 6);
    header.checksum_offset = get_le16(head, 8);
    if (header.checksum_start < kEthernetHeader ||
        size_t{header.checksum_start} + header.checksum_offset + 2 > frame_size) {
      return fail(Errc::invalid, "a checksum outside the frame");
    }
  }
  if (header.gso_type != 0) {
    header.header_length = static_cast<uint16_t>(std::min<size_t>(get_le16(head, 2), frame_size));
    header.gso_size = get_le16(head, 4);
    if (const auto sane = check_gso(header, frame_size); !sane) return std::unexpected(sane.error());
  }
  return header;
}

void store_net_header(const NetHeader& header, std::span<std::byte, kNetHeaderSize> out) {
  out[0] = std::byte{header.flags};
  out[1] = std::byte{header.gso_type};
  put_le16(out, 2, header.header_length);
  put_le16(out, 4, header.gso_size);
  put_le16(out, 6, header.checksum_start);
  put_le16(out, 8, header.checksum_offset);
  put_le16(out, 10, 1);  // num_buffers: one, until the receiver knows better
}

}  // namespace minivmm
