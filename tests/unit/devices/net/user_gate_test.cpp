// What a guest must not reach: the host's loopback in any guise, with restrict=on nothing at all; and what it
// must not do to libslirp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/icmp6.h>

#include <algorithm>
#include <fstream>

#include "tests/unit/devices/net/user_fixture.h"

namespace minivmm::test {
namespace {

using namespace user_net;

constexpr auto kGateway = "10.0.2.2";

// Listens on every address of the host, both families and protocols.
struct OpenHost {
  HostSocket stream{SOCK_STREAM, at("::", 0)};  // takes IPv4, too
  HostSocket datagram{SOCK_DGRAM, at("::", 0)};
  bool untouched() const {
    HostAddress from;
    return stream.untouched() && datagram.receive(from).empty();
  }
};

// What leads to the host, or looks as if it did.
std::vector<const char*> ways_to_loopback() {
  return {kGateway,    "127.0.0.1",        "127.1.2.3",   "0.0.0.0", "0.1.2.3", "255.255.255.255", "10.0.2.3",
          "10.0.2.77", "10.0.2.255",       "224.0.0.1",   "fec0::2", "fec0::3", "fec0::77",        "::1",
          "::",        "::ffff:127.0.0.1", "::127.0.0.1", "ff02::1", "ff05::1", "fe80::2"};
}

// Addresses of the host's own interfaces: its LAN's, as far as it has one.
std::vector<IpAddress> addresses_of_host() {
  std::vector<IpAddress> result;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return result;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET || (i->ifa_flags & IFF_LOOPBACK) != 0)
      continue;
    result.push_back(
        IpAddress::v4(ntohl(reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr.s_addr)));
  }
  ::freeifaddrs(list);
  return result;
}

void knock(NetGuest& guest, const IpAddress& address, const OpenHost& host) {
  const IpAddress from =
      address.bytes[0] == 0 && address.is_v4() ? guest.address() : at("fec0::15", 0).address;
  const IpAddress to = address;
  // With every set of flags that opens a connection in libslirp or nearly does.
  for (const uint8_t flags : {uint8_t{kTcpSyn}, uint8_t{kTcpSyn | 0x08}, uint8_t{kTcpSyn | 0x40},
                              uint8_t{kTcpSyn | 0x80}, uint8_t{kTcpSyn | kTcpAck}, uint8_t{kTcpAck}}) {
    guest.send(guest.tcp_packet({from, 4000}, {to, host.stream.port()}, 1, 0, flags, ""));
  }
  guest.send(guest.udp_packet({from, 4000}, {to, host.datagram.port()}, "knock"));
  guest.send(guest.udp_packet({from, 68}, {to, host.datagram.port()}, "knock"));
  guest.settle();
}

TEST(UserNetGate, KeepsAGuestFromTheHostsLoopback) {
  const OpenHost host;
  UserCable cable;
  for (const char* const way : ways_to_loopback()) {
    knock(cable.guest, at(way, 0).address, host);
    EXPECT_TRUE(cable.guest.run_until([] { return true; })) << way;
    EXPECT_TRUE(host.untouched()) << way;
  }
}

TEST(UserNetGate, KeepsARestrictedGuestFromEverything) {
  const OpenHost host;
  UserNetConfig config;
  config.restricted = true;
  for (const bool with_forward : {false, true}) {  // which libslirp's own restriction would not allow
    if (with_forward) {
      config.forwards = {{.address = kLoopback.address,
                          .host_port = free_port(SOCK_DGRAM),
                          .guest_port = 4001,
                          .udp = true}};
    }
    UserCable cable(config);
    std::vector<IpAddress> ways = addresses_of_host();
    for (const char* const way : ways_to_loopback()) ways.push_back(at(way, 0).address);
    for (const IpAddress& way : ways) {
      knock(cable.guest, way, host);
      EXPECT_TRUE(host.untouched());
    }
    TcpConnection& connection = cable.guest.connection(cable.guest.connect(at("198.51.100.1", 80)));
    EXPECT_TRUE(cable.guest.run_until([&] { return connection.reset; })) << "told at once";
  }
}

TEST(UserNetGate, LetsAGuestUseTheHostsOtherAddressesUnlessRestricted) {
  const std::vector<IpAddress> addresses = addresses_of_host();
  if (addresses.empty()) GTEST_SKIP() << "this host has loopback alone";
  const OpenHost host;
  UserCable cable;
  TcpConnection& connection = cable.guest.connection(cable.guest.connect({addresses[0], host.stream.port()}));
  EXPECT_TRUE(cable.guest.run_until([&] { return connection.established; }));
}

TEST(UserNetGate, HidesNoPortInASecondFragment) {
  const OpenHost host;
  UserCable cable;
  // A SYN to the gateway in two halves, the ports in the first and the flags in the second.
  Bytes whole = cable.guest.tcp_packet({cable.guest.address(), 4000}, at(kGateway, host.stream.port()), 1, 0,
                                       kTcpSyn, "");
  for (const bool second : {false, true}) {
    Bytes half(whole.begin(), whole.begin() + kEthernetHeader + kIpv4Header);
    const auto from = whole.begin() + kEthernetHeader + kIpv4Header + (second ? 8 : 0);
    half.insert(half.end(), from, second ? whole.end() : from + 8);
    store16(half.data() + kEthernetHeader + 2, static_cast<uint16_t>(half.size() - kEthernetHeader));
    store16(half.data() + kEthernetHeader + 6, second ? 1 : 0x2000);
    fill_in_ipv4_sum(half);
    cable.guest.send(half);
  }
  cable.guest.settle();
  EXPECT_TRUE(host.untouched());
}

// libslirp asserts that it never has to answer such senders.
TEST(UserNetGate, OutlivesSendersThatCannotBe) {
  UserNetConfig config;
  config.host_loopback = true;
  UserCable cable(config);
  for (const char* const sender :
       {"0.0.0.0", "16.0.0.0", "240.0.0.0", "255.255.255.255", "10.0.2.255", "10.0.2.2", "10.0.2.0",
        "127.0.0.1", "::", "ff02::1", "fec0::", "fec0::2", "::1"}) {
    const IpAddress from = at(sender, 0).address;
    const bool v4 = from.is_v4();
    const IpAddress gateway = v4 ? at(kGateway, 0).address : at("fec0::2", 0).address;
    Bytes echo(40);
    echo[0] = v4 ? 8 : 128;
    cable.guest.send(cable.guest.packet(from, gateway, static_cast<uint8_t>(v4 ? 1 : 58), echo));
    cable.guest.send(cable.guest.tcp_packet({from, 1000}, {gateway, free_port()}, 1, 0, kTcpSyn, ""));
    cable.guest.send(cable.guest.tcp_packet({from, 1000}, {gateway, 1}, 1, 0, kTcpAck, "x"));
    cable.guest.send(cable.guest.udp_packet({from, 1000}, {gateway, 1}, "x"));
    cable.guest.send(cable.guest.udp_packet({from, 68}, {gateway, 67}, std::string(300, '\1')));
    for (const int type :
         {ND_ROUTER_SOLICIT, ND_ROUTER_ADVERT, ND_NEIGHBOR_SOLICIT, ND_NEIGHBOR_ADVERT, ND_REDIRECT}) {
      if (v4) break;
      Bytes neighbour(32);
      neighbour[0] = static_cast<uint8_t>(type);
      std::copy(gateway.bytes.begin(), gateway.bytes.end(), neighbour.begin() + 8);
      cable.guest.send(cable.guest.packet(from, gateway, IPPROTO_ICMPV6, neighbour));
    }
    cable.guest.settle();
  }
  cable.guest.frames.clear();
  Bytes echo(40);
  echo[0] = 8;
  cable.guest.send(cable.guest.packet(cable.guest.address(), at(kGateway, 0).address, IPPROTO_ICMP, echo));
  EXPECT_TRUE(cable.guest.run_until([&] { return !cable.guest.frames.empty(); }));
}

TEST(UserNetGate, OutlivesFramesThatMakeNoSense) {
  UserCable cable;
  NetQueue& queue = cable.net->queue(0);
  Bytes frame(2000);
  uint32_t state = 1;
  for (int i = 0; i < 20'000; ++i) {
    for (uint8_t& byte : frame) byte = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
    const size_t size = state % frame.size();
    if (size > kNetHeaderSize + kEthernetHeader + 1) {
      std::fill_n(frame.begin(), kNetHeaderSize, uint8_t{0});
      constexpr uint16_t kTypes[] = {kEtherArp, kEtherIpv4, kEtherIpv6};
      store16(frame.data() + kNetHeaderSize + 12, kTypes[i % 3]);
      frame[kNetHeaderSize + kEthernetHeader] = i % 3 == 1 ? 0x45 : 0x60;
    }
    const iovec piece{frame.data(), size};
    const auto sent = queue.send({&piece, 1});
    EXPECT_EQ(sent.has_value(), size >= kNetHeaderSize + kEthernetHeader);
  }
  Bytes huge(kMaxFrame + 1);
  const iovec piece{huge.data(), huge.size()};
  EXPECT_FALSE(queue.send({&piece, 1}));
}

TEST(UserNetGate, KeepsNoMoreSegmentsThanItsBound) {
  const HostSocket server(SOCK_STREAM, kLoopback);
  UserNetConfig config;
  config.host_loopback = true;
  UserCable cable(config);
  TcpConnection& connection = cable.guest.connection(cable.guest.connect(at(kGateway, server.port())));
  ASSERT_TRUE(cable.guest.run_until([&] { return connection.established; }));
  const UniqueFd peer = server.await_connection();
  ASSERT_TRUE(peer);
  // All but the first byte, one by one: libslirp keeps each until that has come.
  for (uint32_t i = 1; i < 20'000; ++i) {
    cable.guest.send(cable.guest.tcp_packet({cable.guest.address(), connection.port}, connection.remote,
                                            connection.next + i, connection.expected, kTcpAck, "x"));
    cable.guest.settle();
  }
  // When that comes at last, what was kept goes through with it.
  cable.guest.write(connection, "x");
  std::string got;
  ASSERT_TRUE(cable.guest.run_until([&] {
    read_into(peer, got);
    return !got.empty();
  }));
  cable.guest.settle();
  read_into(peer, got);
  EXPECT_GT(got.size(), 1U);
  EXPECT_LT(got.size(), 600U);
}

}  // namespace
}  // namespace minivmm::test
