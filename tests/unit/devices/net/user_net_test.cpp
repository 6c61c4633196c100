#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/icmp6.h>

#include <algorithm>
#include <thread>

#include "devices/net/user/library.h"
#include "devices/net/user/reassembly.h"
#include "devices/net/user/segments.h"
#include "tests/temp_folder.h"
#include "tests/unit/devices/net/user_fixture.h"

namespace minivmm::test {
namespace {

using namespace user_net;
using testing::HasSubstr;

constexpr auto kGateway = "10.0.2.2";

Bytes dhcp(uint8_t type) {
  Bytes message(240);
  message[0] = 1;  // BOOTREQUEST
  message[1] = 1;
  message[2] = 6;
  std::copy(NetGuest::kMac.begin(), NetGuest::kMac.end(), message.begin() + 28);
  store32(message.data() + 236, 0x63825363);
  const uint8_t options[] = {53, 1, type, 50, 4, 10, 0, 2, 15, 255};
  message.insert(message.end(), std::begin(options), std::end(options));
  return message;
}

std::string option(const std::string& message, uint8_t wanted) {
  for (size_t i = 240; i + 1 < message.size() && static_cast<uint8_t>(message[i]) != 255;) {
    const auto length = static_cast<uint8_t>(message[i + 1]);
    if (static_cast<uint8_t>(message[i]) == wanted) return message.substr(i + 2, length);
    i += size_t{2} + length;
  }
  return "";
}

std::string ask_dhcp(NetGuest& guest, uint8_t type) {
  const Bytes message = dhcp(type);
  guest.datagrams.clear();
  guest.send(
      guest.udp_packet(at("0.0.0.0", 68), at("255.255.255.255", 67), {message.begin(), message.end()}));
  guest.settle();
  return guest.datagrams.empty() ? "" : guest.datagrams.back().data;
}

Bytes echo_request(const NetGuest& guest, const char* to, size_t size = 40) {
  Bytes icmp(size);
  icmp[0] = 8;
  return guest.packet(guest.address(), at(to, 0).address, IPPROTO_ICMP, icmp);
}

TEST(UserNet, LeasesTheUsualAddressByDhcp) {
  UserNetConfig config;
  config.hostname = "inner";
  config.domain = "example.org";
  UserCable cable(config);
  const std::string offer = ask_dhcp(cable.guest, 1);
  ASSERT_GT(offer.size(), 240U);
  EXPECT_EQ(offer.substr(16, 4), std::string("\x0a\0\2\x0f", 4));
  EXPECT_EQ(option(offer, 3), std::string("\x0a\0\2\2", 4));
  EXPECT_EQ(option(offer, 6), std::string("\x0a\0\2\3", 4));
  EXPECT_EQ(option(offer, 12), "inner");
  EXPECT_EQ(option(offer, 15), "example.org");
  const std::string ack = ask_dhcp(cable.guest, 3);
  EXPECT_EQ(option(ack, 53), "\5");
}

TEST(UserNet, NamesNoNameServerToARestrictedGuest) {
  UserNetConfig config;
  config.restricted = true;
  UserCable cable(config);
  const std::string offer = ask_dhcp(cable.guest, 1);
  EXPECT_EQ(offer.substr(16, 4), std::string("\x0a\0\2\x0f", 4));
  EXPECT_EQ(option(offer, 6), "");
}

TEST(UserNet, AnswersArpAndEchoAtTheGateway) {
  UserCable cable;
  Bytes arp(kEthernetHeader + 28);
  std::fill_n(arp.begin(), 6, uint8_t{0xff});
  std::copy(NetGuest::kMac.begin(), NetGuest::kMac.end(), arp.begin() + 6);
  store16(arp.data() + 12, kEtherArp);
  const uint8_t request[] = {0, 1, 8, 0, 6, 4, 0, 1};
  std::copy(std::begin(request), std::end(request), arp.begin() + kEthernetHeader);
  std::copy(NetGuest::kMac.begin(), NetGuest::kMac.end(), arp.begin() + kEthernetHeader + 8);
  store32(arp.data() + kEthernetHeader + 14, at("10.0.2.15", 0).address.as_v4());
  store32(arp.data() + kEthernetHeader + 24, at(kGateway, 0).address.as_v4());
  cable.guest.send(arp);
  cable.guest.settle();
  ASSERT_EQ(cable.guest.frames.size(), 1U);
  EXPECT_EQ(load16(cable.guest.frames[0].data() + kEthernetHeader + 6), 2);

  cable.guest.frames.clear();
  cable.guest.send(echo_request(cable.guest, kGateway));
  cable.guest.settle();
  ASSERT_EQ(cable.guest.frames.size(), 1U);
  EXPECT_EQ(cable.guest.frames[0][kEthernetHeader + kIpv4Header], 0);  // echo reply
}

TEST(UserNet, TakesFramesOfWhichPiecesHaveNoBytes) {
  UserCable cable;
  Bytes frame(kNetHeaderSize);
  const Bytes request = echo_request(cable.guest, kGateway);
  frame.insert(frame.end(), request.begin(), request.end());
  const iovec nothing{nullptr, 0};
  const std::array out{nothing, iovec{frame.data(), 30}, nothing, iovec{frame.data() + 30, frame.size() - 30},
                       nothing};
  ASSERT_TRUE(cable.net->queue(0).send(out));
  EXPECT_FALSE(cable.net->queue(0).send({&nothing, 1}));
  Bytes room(2000);
  const std::array in{nothing, iovec{room.data(), 30}, nothing, iovec{room.data() + 30, room.size() - 30}};
  // The gateway looks for us first.
  cable.guest.settle();
  ASSERT_TRUE(cable.net->queue(0).send(out));
  const auto answer = cable.net->queue(0).receive(in);
  ASSERT_TRUE(answer);
  ASSERT_EQ(*answer, frame.size());
  EXPECT_EQ(room[kNetHeaderSize + kEthernetHeader + kIpv4Header], 0);  // echo reply
}

TEST(UserNet, AsksTheNameServerItIsGiven) {
  const HostSocket resolver(SOCK_DGRAM, kLoopback);
  UserNetConfig config;
  config.name_server = at("127.0.0.1", resolver.port());
  UserCable cable(config);
  cable.guest.udp(5000, at("10.0.2.3", 53), "what is a.example?");
  HostAddress from;
  EXPECT_EQ(resolver.await_datagram(from), "what is a.example?");
  ::sendto(resolver.fd(), "192.0.2.7", 9, 0, from.get(), from.size);
  ASSERT_TRUE(cable.guest.run_until([&] { return !cable.guest.datagrams.empty(); }));
  EXPECT_EQ(cable.guest.datagrams[0].data, "192.0.2.7");
  EXPECT_EQ(cable.guest.datagrams[0].from, at("10.0.2.3", 53));
}

TEST(UserNet, CarriesDatagramsThatComeInFragmentsBothWays) {
  const HostSocket resolver(SOCK_DGRAM, kLoopback);
  UserNetConfig config;
  config.name_server = at("127.0.0.1", resolver.port());
  UserCable cable(config);
  const std::string large(4000, 'q');
  const Bytes whole = cable.guest.udp_packet({cable.guest.address(), 5000}, at("10.0.2.3", 53), large);
  const auto packet = parse_packet(std::span(const_cast<Bytes&>(whole)));
  Bytes scratch(2000);
  cut_fragments(*packet, {.allowed = 0, .mtu = 1500}, scratch,
                [&](std::span<const uint8_t> f) { cable.guest.send(Bytes(f.begin(), f.end())); });
  HostAddress from;
  EXPECT_EQ(resolver.await_datagram(from), large);

  ::sendto(resolver.fd(), large.data(), large.size(), 0, from.get(), from.size);
  ASSERT_TRUE(cable.guest.run_until([&] { return cable.guest.frames.size() == 3; }));
  EXPECT_LE(cable.guest.largest, 1514U);
  Reassembly reassembly;
  std::string answer;
  for (Bytes& frame : cable.guest.frames) {
    if (const auto datagram = reassembly.add(*parse_packet(frame))) {
      answer.assign(datagram->begin() + kEthernetHeader + kIpv4Header + kUdpHeader, datagram->end());
    }
  }
  EXPECT_EQ(answer, large);
}

TEST(UserNet, ReachesTheHostsLoopbackOnceThatIsOn) {
  const HostSocket server(SOCK_STREAM, kLoopback);
  UserNetConfig config;
  config.host_loopback = true;
  UserCable cable(config);
  TcpConnection& connection = cable.guest.connection(cable.guest.connect(at(kGateway, server.port())));
  ASSERT_TRUE(cable.guest.run_until([&] { return connection.established; }));
  const UniqueFd peer = server.await_connection();
  ASSERT_TRUE(peer);
  cable.guest.write(connection, "to the host");
  std::string got;
  ASSERT_TRUE(cable.guest.run_until([&] {
    read_into(peer, got);
    return got == "to the host";
  }));
  ASSERT_EQ(::write(peer.get(), "to the guest", 12), 12);
  ASSERT_TRUE(cable.guest.run_until([&] { return connection.received == "to the guest"; }));
  ::shutdown(peer.get(), SHUT_WR);
  ASSERT_TRUE(cable.guest.run_until([&] { return connection.ended; }));
}

TEST(UserNet, TellsAGuestThatNobodyListens) {
  UserNetConfig config;
  config.host_loopback = true;
  UserCable cable(config);
  TcpConnection& connection = cable.guest.connection(cable.guest.connect(at(kGateway, free_port())));
  EXPECT_TRUE(cable.guest.run_until([&] { return connection.reset; }));
}

TEST(UserNet, ForwardsAPortOfTheHost) {
  UserNetConfig config;
  config.forwards = {{.address = kLoopback.address, .host_port = free_port(), .guest_port = 22}};
  UserCable cable(config);
  cable.guest.listen(22);
  const UniqueFd client = connect_to(at("127.0.0.1", config.forwards[0].host_port));
  ASSERT_TRUE(client);
  ASSERT_TRUE(cable.guest.run_until(
      [&] { return cable.guest.accepted(22) && cable.guest.accepted(22)->established; }));
  TcpConnection& connection = *cable.guest.accepted(22);
  EXPECT_EQ(connection.remote.address, at(kGateway, 0).address);
  cable.guest.write(connection, "SSH-2.0-");
  std::string banner;
  ASSERT_TRUE(cable.guest.run_until([&] {
    read_into(client, banner);
    return banner == "SSH-2.0-";
  }));
  ASSERT_EQ(::write(client.get(), "hello", 5), 5);
  EXPECT_TRUE(cable.guest.run_until([&] { return connection.received == "hello"; }));
}

TEST(UserNet, ForwardsAPortOfIpv6) {
  UserNetConfig config;
  const HostSocket probe(SOCK_STREAM, at("::1", 0));
  config.forwards = {{.address = at("::1", 0).address, .host_port = free_port(), .guest_port = 80}};
  UserCable cable(config);
  // The guest makes itself known, as it does when it looks for its router.
  const IpAddress own = at("fec0::5054:ff:fe12:3456", 0).address;
  Bytes solicitation(24);
  solicitation[0] = ND_NEIGHBOR_SOLICIT;
  const IpAddress router = at("fec0::2", 0).address;
  std::copy(router.bytes.begin(), router.bytes.end(), solicitation.begin() + 8);
  cable.guest.send(cable.guest.packet(own, router, IPPROTO_ICMPV6, solicitation));
  cable.guest.settle();
  const UniqueFd client = connect_to(at("::1", config.forwards[0].host_port));
  ASSERT_TRUE(client);
  const auto syn = [&]() -> std::optional<Packet> {
    for (Bytes& frame : cable.guest.frames) {
      auto packet = parse_packet(frame);
      if (packet && packet->v6 && packet->opens()) return packet;
    }
    return std::nullopt;
  };
  ASSERT_TRUE(cable.guest.run_until([&] { return syn().has_value(); }));
  EXPECT_EQ(syn()->destination, (Endpoint{own, 80}));
  EXPECT_EQ(syn()->source.address, router);
}

class UserNetForwardedDatagrams : public testing::TestWithParam<bool> {};

TEST_P(UserNetForwardedDatagrams, GoBothWays) {
  UserNetConfig config;
  config.restricted = GetParam();
  config.forwards = {
      {.address = kLoopback.address, .host_port = free_port(SOCK_DGRAM), .guest_port = 53, .udp = true}};
  UserCable cable(config);
  const HostSocket client(SOCK_DGRAM, kLoopback);
  const HostAddress port = host_address(at("127.0.0.1", config.forwards[0].host_port));
  ::sendto(client.fd(), "ping", 4, 0, port.get(), port.size);
  ASSERT_TRUE(cable.guest.run_until([&] { return !cable.guest.datagrams.empty(); }));
  const Datagram asked = cable.guest.datagrams[0];
  EXPECT_EQ(asked.data, "ping");
  EXPECT_EQ(asked.port, 53);
  cable.guest.udp(53, asked.from, "pong");
  HostAddress from;
  EXPECT_EQ(client.await_datagram(from), "pong");

  // The port is for answers: to no other of the host's.
  const HostSocket other(SOCK_DGRAM, kLoopback);
  cable.guest.udp(53, {asked.from.address, other.port()}, "let me in");
  cable.guest.settle();
  EXPECT_EQ(other.receive(from), "");
}
INSTANTIATE_TEST_SUITE_P(RestrictedOrNot, UserNetForwardedDatagrams, testing::Bool());

TEST(UserNet, LeadsAnAddressOfTheGuestsToAServiceOfTheHost) {
  const HostSocket one(SOCK_STREAM, kLoopback);
  const HostSocket two(SOCK_STREAM, kLoopback);
  UserNetConfig config;
  config.restricted = true;
  config.guest_forwards = {{at("10.0.2.100", 80), at("127.0.0.1", one.port()), ""},
                           {at("10.0.2.101", 80), at("127.0.0.1", two.port()), ""}};
  UserCable cable(config);
  for (const HostSocket* server : {&one, &two}) {
    const auto service = at(server == &one ? "10.0.2.100" : "10.0.2.101", 80);
    TcpConnection& connection = cable.guest.connection(cable.guest.connect(service));
    ASSERT_TRUE(cable.guest.run_until([&] { return connection.established; }));
    const UniqueFd peer = server->await_connection();
    ASSERT_TRUE(peer);
    cable.guest.write(connection, "GET /");
    std::string got;
    ASSERT_TRUE(cable.guest.run_until([&] {
      read_into(peer, got);
      return got == "GET /";
    }));
    ASSERT_EQ(::write(peer.get(), "200", 3), 3);
    EXPECT_TRUE(cable.guest.run_until([&] { return connection.received == "200"; }));
  }
  TcpConnection& other = cable.guest.connection(cable.guest.connect(at("10.0.2.100", 81)));
  EXPECT_TRUE(cable.guest.run_until([&] { return other.reset; }));
}

TEST(UserNet, LeadsAnAddressOfTheGuestsToAUnixSocket) {
  const TempFolder folder;
  const std::string path = folder.path() / "service";
  const UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(server.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(server.get(), 4), 0);
  UserNetConfig config;
  config.guest_forwards = {{at("10.0.2.100", 80), {}, path}};
  UserCable cable(config);
  TcpConnection& connection = cable.guest.connection(cable.guest.connect(at("10.0.2.100", 80)));
  ASSERT_TRUE(cable.guest.run_until([&] { return connection.established; }));
  const UniqueFd peer(::accept4(server.get(), nullptr, nullptr, SOCK_NONBLOCK));
  ASSERT_TRUE(peer);
  ASSERT_EQ(::write(peer.get(), "welcome", 7), 7);
  EXPECT_TRUE(cable.guest.run_until([&] { return connection.received == "welcome"; }));
}

TEST(UserNet, AdvertisesItsIpv6Router) {
  UserCable cable;
  Bytes solicitation(8);
  solicitation[0] = ND_ROUTER_SOLICIT;
  cable.guest.send(cable.guest.packet(at("fe80::5054:ff:fe12:3456", 0).address, at("ff02::2", 0).address,
                                      IPPROTO_ICMPV6, solicitation));
  cable.guest.settle();
  ASSERT_EQ(cable.guest.frames.size(), 1U);
  const Bytes& frame = cable.guest.frames[0];
  const uint8_t* const icmp = frame.data() + kEthernetHeader + kIpv6Header;
  EXPECT_EQ(icmp[0], ND_ROUTER_ADVERT);
  const IpAddress prefix = prefix6();
  EXPECT_NE(std::search(frame.begin(), frame.end(), prefix.bytes.begin(), prefix.bytes.end()), frame.end());
}

TEST(UserNet, SaysWhatToInstallWhereLibslirpIsNotThereOrTooOld) {
  const auto absent = find_library("libslirp-that-is-not-there.so.0");
  ASSERT_FALSE(absent);
  EXPECT_THAT(absent.error(), AllOf(HasSubstr("apt-get install libslirp0"), Not(HasSubstr("\n"))));
  const auto other = find_library("libm.so.6");
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error(), AllOf(HasSubstr("slirp_new"), HasSubstr("libslirp0")));
  EXPECT_TRUE(find_library());
}

TEST(UserNet, NamesAPortThatIsTaken) {
  const HostSocket taken(SOCK_STREAM, kLoopback);
  UserNetConfig config;
  config.forwards = {{.address = kLoopback.address, .host_port = taken.port(), .guest_port = 22}};
  try {
    const UserCable cable(config);
    FAIL() << "not refused";
  } catch (const HostError& error) {
    EXPECT_THAT(error.what(), HasSubstr(fmt::format("port {} of the host", taken.port())));
    EXPECT_THAT(error.what(), HasSubstr("choose another"));
  }
}

TEST(UserNet, ForwardsAnotherPortWhileAThreadIsAtWork) {
  UserCable cable;
  cable.guest.listen(80);
  const Forward forward{.address = kLoopback.address, .host_port = free_port(), .guest_port = 80};
  UniqueFd client;
  std::jthread other([&] {
    for (int i = 0; i < 20; ++i) {
      cable.net->add_forward(forward);
      if (i != 19) cable.net->remove_forward(forward);
    }
    client = connect_to(at("127.0.0.1", forward.host_port));
  });
  EXPECT_TRUE(cable.guest.run_until(
      [&] { return cable.guest.accepted(80) && cable.guest.accepted(80)->established; }));
  other.join();
  EXPECT_TRUE(client);
  cable.net->remove_forward(forward);
  EXPECT_FALSE(connect_to(at("127.0.0.1", forward.host_port)));
  EXPECT_THROW(cable.net->remove_forward(forward), HostError);
}

}  // namespace
}  // namespace minivmm::test
