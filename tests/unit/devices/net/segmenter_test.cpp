#include "devices/net/segmenter.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/devices/net/packets.h"

namespace minivmm {
namespace {

using namespace test;

Result<void> start(Segmenter& segmenter, const Bytes& frame) {
  const auto header = check_net_header(frame, frame.size() - kNetHeaderSize);
  if (!header) return std::unexpected(header.error());
  std::ranges::copy(frame, segmenter.buffer().begin());
  return segmenter.start(*header, frame.size());
}

std::vector<Bytes> cut(const Bytes& frame) {
  Segmenter segmenter;
  EXPECT_TRUE(start(segmenter, frame));
  std::vector<Bytes> segments;
  while (segmenter.active()) {
    Bytes room(kMaxFrame);
    const auto size = segmenter.next(in_pieces(room, 3));
    EXPECT_TRUE(size);
    if (!size) break;
    room.resize(*size);
    segments.push_back(std::move(room));
  }
  return segments;
}

void expect_cut_right(const Packet& packet) {
  const Bytes frame = make_packet(packet);
  const auto segments = cut(frame);
  ASSERT_EQ(segments.size(), (packet.payload + packet.gso_size - 1) / packet.gso_size);
  Bytes payload;
  for (size_t i = 0; i < segments.size(); ++i) {
    const Bytes& segment = segments[i];
    EXPECT_TRUE(is_whole(segment, packet)) << "segment " << i;
    if (packet.tcp) {
      const uint32_t sequence = uint32_t{get_be16(segment, packet.transport() + 4)} << 16 |
                                get_be16(segment, packet.transport() + 6);
      EXPECT_EQ(sequence, 0xffffff00u + static_cast<uint32_t>(payload.size()));
      const bool push = (segment[packet.transport() + 13] & std::byte{8}) != std::byte{};
      EXPECT_EQ(push, i + 1 == segments.size());
    }
    payload.insert(payload.end(), segment.begin() + static_cast<ptrdiff_t>(packet.data()), segment.end());
  }
  EXPECT_TRUE(std::equal(payload.begin(), payload.end(),
                         frame.begin() + static_cast<ptrdiff_t>(packet.data()), frame.end()));
}

TEST(Segmenter, CutsTcpOverIpv4) {
  expect_cut_right({});
}
TEST(Segmenter, CutsTcpOverIpv6) {
  expect_cut_right({.ip6 = true, .gso_size = 1428});
}
TEST(Segmenter, CutsUdp) {
  expect_cut_right({.tcp = false, .gso_size = 1200});
  expect_cut_right({.ip6 = true, .tcp = false, .gso_size = 1200});
}
TEST(Segmenter, CutsBehindAVlanTag) {
  expect_cut_right({.vlan = true, .gso_size = 999});
}
TEST(Segmenter, CutsTheLargest) {
  expect_cut_right({.payload = 65'495, .gso_size = 1449});
}
TEST(Segmenter, CutsToTheByte) {
  expect_cut_right({.payload = 3000, .gso_size = 1000});
  expect_cut_right({.payload = 3001, .gso_size = 1000});
  expect_cut_right({.payload = 1000, .gso_size = 1000});
}

TEST(Segmenter, SaysOnceThatTheWindowWasReduced) {
  const Packet packet{.tcp_flags = 0x90};
  const auto segments = cut(make_packet(packet));
  for (size_t i = 0; i < segments.size(); ++i) {
    const bool reduced = (segments[i][packet.transport() + 13] & std::byte{0x80}) != std::byte{};
    EXPECT_EQ(reduced, i == 0);
  }
}

TEST(Segmenter, FillsInAChecksumAlone) {
  for (const bool tcp : {false, true}) {
    const Packet packet{.tcp = tcp, .payload = 999, .gso_size = 0};
    const auto frames = cut(make_packet(packet));
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_TRUE(is_whole(frames[0], packet));
  }
}

TEST(Segmenter, RefusesAPacketThatIsNotWhatItsHeaderSays) {
  Segmenter segmenter;
  const Packet packet;
  const auto refused = [&](auto change) {
    Bytes frame = make_packet(packet);
    change(frame);
    const bool started = start(segmenter, frame).has_value();
    return !started && !segmenter.active();
  };
  EXPECT_TRUE(refused([&](Bytes& f) { f[packet.ip() + 9] = std::byte{17}; })) << "UDP";
  EXPECT_TRUE(refused([&](Bytes& f) { put_be16(f, packet.ip() - 2, 0x86dd); })) << "IPv6";
  EXPECT_TRUE(refused([&](Bytes& f) { put_be16(f, packet.ip() - 2, 0x0806); })) << "ARP";
  EXPECT_TRUE(refused([&](Bytes& f) { f[packet.ip()] = std::byte{0x4f}; }))
      << "IPv4 options that are not there";
  EXPECT_TRUE(refused([&](Bytes& f) { f[packet.ip()] = std::byte{0x41}; })) << "a short IPv4 header";
  EXPECT_TRUE(refused([&](Bytes& f) { f[packet.transport() + 12] = std::byte{0x10}; }))
      << "a short TCP header";
  EXPECT_TRUE(refused([&](Bytes& f) { f.resize(packet.data()); })) << "no payload";
  EXPECT_TRUE(refused([&](Bytes& f) { f.resize(packet.transport() + 18); })) << "half a TCP header";
  EXPECT_TRUE(refused([&](Bytes& f) { f[4] = f[5] = std::byte{}; })) << "segments of nothing";
}

TEST(Segmenter, DropsASegmentThatDoesNotFitAndGoesOn) {
  Segmenter segmenter;
  ASSERT_TRUE(start(segmenter, make_packet({})));
  Bytes small(100);
  const iovec piece{small.data(), small.size()};
  EXPECT_EQ(segmenter.next(std::span(&piece, 1)).error().code, Errc::too_large);
  EXPECT_TRUE(segmenter.active());
  Bytes room(kMaxFrame);
  EXPECT_TRUE(segmenter.next(in_pieces(room, 1000)));
}

TEST(NetHeader, RefusesOffsetsOutsideTheFrame) {
  Bytes frame = make_packet({.payload = 100, .gso_size = 0});
  const size_t size = frame.size() - kNetHeaderSize;
  const auto with_start = [&](size_t begin, size_t offset) {
    frame[6] = static_cast<std::byte>(begin & 0xff);
    frame[7] = static_cast<std::byte>(begin >> 8);
    frame[8] = static_cast<std::byte>(offset & 0xff);
    frame[9] = static_cast<std::byte>(offset >> 8);
    return check_net_header(frame, size).has_value();
  };
  EXPECT_TRUE(with_start(34, 16));
  EXPECT_TRUE(with_start(34, size - 36));
  EXPECT_FALSE(with_start(34, size - 35));
  EXPECT_FALSE(with_start(0xffff, 0));
  EXPECT_FALSE(with_start(34, 0xffff));
  EXPECT_FALSE(with_start(13, 4)) << "inside the Ethernet header";
}

TEST(NetHeader, AStrangersWordOnAChecksumIsNotTaken) {
  Bytes frame = make_frame(mac(1), mac(2));
  frame[0] = std::byte{0xfe};  // VIRTIO_NET_HDR_F_DATA_VALID and what is not defined
  const auto header = check_net_header(frame, frame.size() - kNetHeaderSize);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->flags, 0);
}

}  // namespace
}  // namespace minivmm
