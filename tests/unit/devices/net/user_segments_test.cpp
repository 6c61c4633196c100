// Offloads between the guest and libslirp, and frames on their way.
#include "devices/net/user/segments.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "devices/net/user/frame_ring.h"
#include "tests/unit/devices/net/user_fixture.h"

namespace minivmm::test {
namespace {

using namespace user_net;

constexpr NetOffloads kAll = net_offload::kChecksum | net_offload::kTso4 | net_offload::kTso6;

UserNetConfig with_loopback() {
  UserNetConfig config;
  config.host_loopback = true;
  return config;
}

// So many bytes that tell their places apart.
std::string counted(size_t size) {
  std::string out(size, '\0');
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<char>(i * 31 + i / 251);
  return out;
}

TEST(UserNetOffloads, CompletesChecksumsAndTakesLargeSegments) {
  const HostSocket server(SOCK_STREAM, kLoopback);
  UserCable cable(with_loopback());
  TcpConnection& connection = cable.guest.connection(cable.guest.connect(at("10.0.2.2", server.port())));
  ASSERT_TRUE(cable.guest.run_until([&] { return connection.established; }));
  const UniqueFd peer = server.await_connection();
  ASSERT_TRUE(peer);
  const std::string data(30'000, 'x');
  Bytes frame = cable.guest.tcp_packet({cable.guest.address(), connection.port}, connection.remote,
                                       connection.next, connection.expected, kTcpAck, data);
  store16(frame.data() + kEthernetHeader + kIpv4Header + kTcpSumOffset, 0xbad);
  // NEEDS_CSUM, TCPv4, 54 bytes of headers, segments of 1460, the checksum from 34 on at 16.
  cable.guest.send({1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0, 0, 0}, frame);
  std::string got;
  EXPECT_TRUE(cable.guest.run_until([&] {
    read_into(peer, got);
    return got == data;
  }));
}

TEST(UserNetOffloads, GivesLargeSegmentsToAGuestThatTakesThem) {
  const HostSocket server(SOCK_STREAM, kLoopback);
  UserCable cable(with_loopback());
  ASSERT_TRUE(cable.net->allow(kAll));
  TcpConnection& connection = cable.guest.connection(cable.guest.connect(at("10.0.2.2", server.port())));
  ASSERT_TRUE(cable.guest.run_until([&] { return connection.established; }));
  const UniqueFd peer = server.await_connection();
  ASSERT_TRUE(peer);
  const std::string data(60'000, 'x');
  ASSERT_EQ(::write(peer.get(), data.data(), data.size()), static_cast<ssize_t>(data.size()));
  EXPECT_TRUE(cable.guest.run_until([&] { return connection.received == data; }));
  EXPECT_GT(cable.guest.largest, 30'000U);
}

// libslirp does not look at what a guest says of itself when it opens a connection.
TEST(UserNetOffloads, CutsThemForAGuestThatDoesNot) {
  const HostSocket server(SOCK_STREAM, kLoopback);
  UserCable cable(with_loopback());
  TcpConnection& connection = cable.guest.connection(cable.guest.connect(at("10.0.2.2", server.port())));
  ASSERT_TRUE(cable.guest.run_until([&] { return connection.established; }));
  const UniqueFd peer = server.await_connection();
  ASSERT_TRUE(peer);
  const std::string data = counted(60'000);
  ASSERT_EQ(::write(peer.get(), data.data(), data.size()), static_cast<ssize_t>(data.size()));
  EXPECT_TRUE(cable.guest.run_until([&] { return connection.received == data; }));
  EXPECT_EQ(cable.guest.largest, kEthernetHeader + 1500);
}

TEST(UserNetOffloads, KeepsToTheLeastThatEveryHostTakesWhereTheGuestDoesNotSay) {
  const HostSocket server(SOCK_STREAM, kLoopback);
  UserNetConfig config = with_loopback();
  config.ipv6 = false;  // nothing else comes over the cable
  UserCable cable(config);
  const uint16_t port = 30'000;  // none of the guest's own connections: what comes for it is in `frames`
  cable.guest.send(cable.guest.tcp_packet({cable.guest.address(), port}, at("10.0.2.2", server.port()), 1, 0,
                                          kTcpSyn, ""));
  ASSERT_TRUE(cable.guest.run_until([&] { return !cable.guest.frames.empty(); }));
  const auto answer = parse_packet(cable.guest.frames[0]);
  ASSERT_TRUE(answer && (answer->tcp_flags & kTcpSyn) != 0);
  cable.guest.send(cable.guest.tcp_packet({cable.guest.address(), port}, answer->source, 2,
                                          answer->sequence + 1, kTcpAck, ""));
  const UniqueFd peer = server.await_connection();
  ASSERT_TRUE(peer);
  const std::string data = counted(5000);
  ASSERT_EQ(::write(peer.get(), data.data(), data.size()), static_cast<ssize_t>(data.size()));
  // All of it is within the window: it comes before the guest acknowledges anything.
  std::string got;
  size_t looked_at = 1;
  EXPECT_TRUE(cable.guest.run_until([&] {
    for (; looked_at < cable.guest.frames.size(); ++looked_at) {
      const auto packet = parse_packet(cable.guest.frames[looked_at]);
      if (!packet || packet->sequence != static_cast<uint32_t>(answer->sequence + 1 + got.size())) continue;
      const auto part = packet->frame.subspan(packet->payload);
      got.append(part.begin(), part.end());
    }
    return got == data;
  }));
  EXPECT_EQ(cable.guest.largest, kEthernetHeader + kIpv4Header + kTcpHeader + 536);
}

TEST(UserNetOffloads, DescribesASegmentThatIsStillToBeCut) {
  UserCable cable;
  Bytes frame = cable.guest.tcp_packet(at("10.0.2.2", 80), at("10.0.2.15", 4000), 1, 1, kTcpAck,
                                       std::string(20'000, 'x'));
  auto packet = parse_packet(frame);
  std::array<uint8_t, kNetHeaderSize> header;
  ASSERT_TRUE(describe_frame(*packet, {.allowed = kAll, .mtu = 1500}, header));
  EXPECT_EQ(header, (std::array<uint8_t, kNetHeaderSize>{1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0, 0, 0}));
  // What is in the field is the pseudo-header's sum: completed, it is the one from before.
  const uint16_t sum = fold_sum(add_to_sum(0, packet->frame.subspan(packet->transport)));
  const Bytes wanted = cable.guest.tcp_packet(at("10.0.2.2", 80), at("10.0.2.15", 4000), 1, 1, kTcpAck,
                                              std::string(20'000, 'x'));
  EXPECT_EQ(std::memcmp(&sum, wanted.data() + packet->transport + kTcpSumOffset, sizeof sum), 0);
  EXPECT_FALSE(describe_frame(*packet, {.allowed = 0, .mtu = 1500}, header))
      << "it is too large for that guest";
  packet = parse_packet(frame);
  ASSERT_TRUE(describe_frame(*packet, {.allowed = kAll, .mtu = 1500, .mss = 536}, header));
  EXPECT_EQ(header[4] | header[5] << 8, 536) << "what the other end of that connection takes";
}

TEST(UserNetOffloads, CutsASegmentIntoFramesOfTheirOwn) {
  UserCable cable;
  const std::string data = counted(3000);
  Bytes frame = cable.guest.tcp_packet(at("10.0.2.2", 80), at("10.0.2.15", 4000), 0xffff'fc00, 7,
                                       kTcpAck | kTcpFin | kTcpPush, data);
  const auto packet = parse_packet(frame);
  ASSERT_TRUE(packet);
  const GuestLink link{.allowed = 0, .mtu = 1500};
  Bytes scratch(kEthernetHeader + link.mtu);
  std::vector<Bytes> cut;
  cut_segments(*packet, link, scratch,
               [&](std::span<const uint8_t> one) { cut.emplace_back(one.begin(), one.end()); });
  ASSERT_EQ(cut.size(), 3U);
  size_t at_byte = 0;
  for (size_t i = 0; i < cut.size(); ++i) {
    const std::string part = data.substr(at_byte, 1460);
    const bool last = i == 2;
    EXPECT_EQ(cut[i],
              cable.guest.tcp_packet(
                  at("10.0.2.2", 80), at("10.0.2.15", 4000), 0xffff'fc00 + static_cast<uint32_t>(at_byte), 7,
                  static_cast<uint8_t>(last ? kTcpAck | kTcpFin | kTcpPush : kTcpAck), part))
        << "segment " << i;
    at_byte += part.size();
  }
}

TEST(UserNetOffloads, DoesNotCutASegmentIntoThousands) {
  UserCable cable;
  for (const uint16_t said : {uint16_t{1}, uint16_t{87}}) {
    Bytes frame = cable.guest.tcp_packet(at("10.0.2.15", 4000), at("10.0.2.2", 80), 1, 0, kTcpSyn, "", said);
    auto packet = parse_packet(frame);
    EXPECT_EQ(settle_segment_size(*packet, {.allowed = kAll, .mtu = 1500}), 88);
  }
}

TEST(UserNetOffloads, SaysThatAShortFramesChecksumIsGood) {
  UserCable cable;
  Bytes frame = cable.guest.udp_packet(at("10.0.2.2", 80), at("10.0.2.15", 4000), "x");
  auto packet = parse_packet(frame);
  std::array<uint8_t, kNetHeaderSize> header;
  ASSERT_TRUE(describe_frame(*packet, {.allowed = kAll, .mtu = 1500}, header));
  EXPECT_EQ(header[0], 2);
  ASSERT_TRUE(describe_frame(*packet, {.allowed = 0, .mtu = 1500}, header));
  EXPECT_EQ(header[0], 0);
}

TEST(FrameRing, KeepsOrderAndContentsAcrossItsEnd) {
  FrameRing ring(4096);
  std::array<uint8_t, kNetHeaderSize> header{};
  Bytes buffer(2048);
  const iovec piece{buffer.data(), buffer.size()};
  uint8_t written = 0;
  uint8_t read = 0;
  for (int i = 0; i < 1000; ++i) {
    header[0] = written;
    const Bytes frame(size_t{60} + written * size_t{5}, written);
    if (ring.push(header, frame)) {
      ++written;
    } else {
      ASSERT_NE(read, written) << "an empty ring has room";
    }
    if (i % 3 == 0 || !ring.has_room(1500)) {
      const size_t size = size_t{60} + read * size_t{5};
      ASSERT_EQ(ring.pop({&piece, 1}), kNetHeaderSize + size);
      EXPECT_EQ(buffer[0], read);
      EXPECT_EQ(buffer[kNetHeaderSize + size - 1], read);
      ++read;
    }
  }
  while (!ring.empty()) {
    ASSERT_TRUE(ring.pop({&piece, 1}));
    ++read;
  }
  EXPECT_EQ(read, written);
}

TEST(FrameRing, LosesAFrameThatTheGuestHasNoRoomFor) {
  FrameRing ring(4096);
  const std::array<uint8_t, kNetHeaderSize> header{};
  ASSERT_TRUE(ring.push(header, Bytes(100)));
  Bytes buffer(50);
  const iovec piece{buffer.data(), buffer.size()};
  const auto popped = ring.pop({&piece, 1});
  ASSERT_FALSE(popped);
  EXPECT_EQ(popped.error().code, Errc::too_large);
  EXPECT_TRUE(ring.empty());
}

}  // namespace
}  // namespace minivmm::test
