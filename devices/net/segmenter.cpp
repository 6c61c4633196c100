#include "devices/net/segmenter.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "devices/net/scatter.h"

namespace minivmm {

namespace {

constexpr uint16_t kTypeIp4 = 0x0800;
constexpr uint16_t kTypeIp6 = 0x86dd;
constexpr uint8_t kTcp = 6;
constexpr uint8_t kUdp = 17;
constexpr size_t kMinTcpHeader = 20;
constexpr size_t kUdpHeader = 8;
constexpr size_t kIp6Header = 40;
constexpr size_t kTcpChecksum = 16;
constexpr size_t kUdpChecksum = 6;
constexpr std::byte kFinPush{0x09};
constexpr std::byte kCwr{0x80};

uint16_t get16(std::span<const std::byte> bytes, size_t at) {
  return static_cast<uint16_t>(std::to_integer<unsigned>(bytes[at]) << 8 |
                               std::to_integer<unsigned>(bytes[at + 1]));
}

void put16(std::span<std::byte> bytes, size_t at, size_t value) {
  bytes[at] = static_cast<std::byte>(value >> 8 & 0xff);
  bytes[at + 1] = static_cast<std::byte>(value & 0xff);
}

// RFC 1071: the sum of the 16-bit words; an odd last byte is the high half of one.
uint64_t sum_words(std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  size_t i = 0;
  for (; i + 1 < bytes.size(); i += 2) sum += get16(bytes, i);
  if (i < bytes.size()) sum += std::to_integer<uint64_t>(bytes[i]) << 8;
  return sum;
}

uint16_t folded(uint64_t sum) {
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

}  // namespace

Segmenter::Segmenter() : frame_(kMaxFrame) {}

Result<void> Segmenter::start(const NetHeader& header, size_t size) {
  size_ = size - kNetHeaderSize;
  at_ = 0;
  index_ = 0;
  whole_ = header.gso_type == 0;
  if (whole_) {
    if ((header.flags & NetHeader::kNeedsChecksum) != 0) {
      const auto bytes = packet();
      const size_t at = size_t{header.checksum_start} + header.checksum_offset;
      // The field holds the pseudo header's sum.
      uint16_t checksum = folded(sum_words(bytes.subspan(header.checksum_start)));
      if (checksum == 0 && header.checksum_offset == kUdpChecksum) checksum = 0xffff;  // 0: UDP without one
      put16(bytes, at, checksum);
    }
  } else if (const auto found = find_headers(header); !found) {
    return found;
  }
  active_ = true;
  return {};
}

Result<void> Segmenter::find_headers(const NetHeader& header) {
  const auto bytes = packet();
  const Error nonsense{Errc::invalid, "a packet that does not match its segmentation header"};
  ip_ = kEthernetHeader;
  while (size_ >= ip_ + 4 && (get16(bytes, ip_ - 2) == 0x8100 || get16(bytes, ip_ - 2) == 0x88a8)) ip_ += 4;
  transport_ = header.checksum_start;
  const auto type = static_cast<uint8_t>(header.gso_type & ~NetHeader::kGsoEcn);
  tcp_ = type != NetHeader::kGsoUdp;
  if (size_ < ip_ + 20) return std::unexpected(nonsense);
  const uint16_t ether_type = get16(bytes, ip_ - 2);
  ip6_ = ether_type == kTypeIp6;
  const uint8_t protocol = tcp_ ? kTcp : kUdp;
  if (ip6_) {
    // Extension headers may lie between: then the transport's number is in the last of them, and not looked
    // for.
    if (type == NetHeader::kGsoTcp4 || transport_ < ip_ + kIp6Header) return std::unexpected(nonsense);
    if (transport_ == ip_ + kIp6Header && std::to_integer<uint8_t>(bytes[ip_ + 6]) != protocol)
      return std::unexpected(nonsense);
  } else {
    const size_t length = (std::to_integer<size_t>(bytes[ip_]) & 15) * 4;
    if (ether_type != kTypeIp4 || type == NetHeader::kGsoTcp6 || length < 20 || transport_ != ip_ + length ||
        size_ < ip_ + length || std::to_integer<uint8_t>(bytes[ip_ + 9]) != protocol) {
      return std::unexpected(nonsense);
    }
  }
  if (size_ < transport_ + (tcp_ ? kMinTcpHeader : kUdpHeader)) return std::unexpected(nonsense);
  payload_ = transport_ + kUdpHeader;
  if (tcp_) {
    const size_t length = (std::to_integer<size_t>(bytes[transport_ + 12]) >> 4) * 4;
    if (length < kMinTcpHeader) return std::unexpected(nonsense);
    payload_ = transport_ + length;
  }
  if (payload_ >= size_) return std::unexpected(nonsense);
  segment_ = header.gso_size;
  return {};
}

// The headers of the frame with these bytes of the payload.
void Segmenter::prepare(size_t payload_begin, size_t payload_size) {
  const auto packet_bytes = packet();
  head_.assign(kNetHeaderSize, std::byte{});
  store_net_header({}, std::span(head_).first<kNetHeaderSize>());
  head_.insert(head_.end(), packet_bytes.begin(), packet_bytes.begin() + static_cast<ptrdiff_t>(payload_));
  const auto out = std::span(head_).subspan(kNetHeaderSize);
  const size_t transport_size = payload_ - transport_ + payload_size;
  if (ip6_) {
    put16(out, ip_ + 4, transport_ - ip_ - kIp6Header + transport_size);
  } else {
    put16(out, ip_ + 2, transport_ - ip_ + transport_size);
    put16(out, ip_ + 4, size_t{get16(out, ip_ + 4)} + index_);  // its identification
    put16(out, ip_ + 10, 0);
    put16(out, ip_ + 10, folded(sum_words(out.subspan(ip_, transport_ - ip_))));
  }
  if (tcp_) {
    const uint32_t sequence = (uint32_t{get16(out, transport_ + 4)} << 16 | get16(out, transport_ + 6)) +
                              static_cast<uint32_t>(payload_begin - payload_);
    put16(out, transport_ + 4, sequence >> 16);
    put16(out, transport_ + 6, sequence & 0xffff);
    std::byte& flags = out[transport_ + 13];
    if (payload_begin + payload_size < size_) flags &= ~kFinPush;
    if (index_ != 0) flags &= ~kCwr;  // RFC 3168, 6.1.2: said once
  } else {
    put16(out, transport_ + 4, transport_size);
  }
  const size_t checksum_at = transport_ + (tcp_ ? kTcpChecksum : kUdpChecksum);
  put16(out, checksum_at, 0);
  uint64_t sum = ip6_ ? sum_words(out.subspan(ip_ + 8, 32)) : sum_words(out.subspan(ip_ + 12, 8));
  sum += transport_size + (tcp_ ? kTcp : kUdp);
  sum += sum_words(out.subspan(transport_));
  // The headers are of an even length, so the payload's words begin where they do in the whole.
  sum += sum_words(packet_bytes.subspan(payload_begin, payload_size));
  const uint16_t checksum = folded(sum);
  put16(out, checksum_at, checksum == 0 && !tcp_ ? 0xffff : checksum);
}

Result<size_t> Segmenter::next(std::span<const iovec> pieces) {
  std::span<const std::byte> payload;
  if (whole_) {
    active_ = false;
    store_net_header({}, std::span(frame_).first<kNetHeaderSize>());
    head_.clear();
    payload = std::span(frame_).first(kNetHeaderSize + size_);
  } else {
    const size_t begin = payload_ + at_;
    const size_t size = std::min(segment_, size_ - begin);
    prepare(begin, size);
    payload = packet().subspan(begin, size);
    at_ += size;
    ++index_;
    active_ = payload_ + at_ < size_;
  }
  std::array<iovec, 256> rest{};
  size_t done = copy_to_pieces(head_, pieces);
  if (done == head_.size()) {
    const size_t count = pieces_behind(pieces, done, rest);
    done += copy_to_pieces(payload, std::span(rest).first(count));
  }
  if (done != head_.size() + payload.size()) return fail(Errc::too_large, "the frame does not fit");
  return done;
}

}  // namespace minivmm
