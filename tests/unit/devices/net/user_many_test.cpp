// Many connections, one after the other and at once: nothing may be left behind.
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/unit/devices/net/user_fixture.h"

// sanitizer/allocator_interface.h has it, which g++ 12 has not.
extern "C" size_t __sanitizer_get_current_allocated_bytes();

namespace minivmm::test {
namespace {

using namespace user_net;

constexpr auto kGateway = "10.0.2.2";

// MINIVMM_USER_CONNECTIONS: the long form (docs/testing.md).
size_t connections_in_sequence() {
  const char* const text = std::getenv("MINIVMM_USER_CONNECTIONS");  // NOLINT(concurrency-mt-unsafe)
  return text != nullptr ? std::stoul(text) : 1000;
}

size_t open_descriptors() {
  const auto all = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

// Allocated and not freed. What the process has of RAM says nothing: the sanitizers hold what was freed back.
size_t allocated_bytes() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return __sanitizer_get_current_allocated_bytes();
#else
  return ::mallinfo2().uordblks;
#endif
}

UserNetConfig with_loopback() {
  UserNetConfig config;
  config.host_loopback = true;
  return config;
}

// One connection with a byte each way; `host_first` says who ends it. It stays among the guest's.
void converse(NetGuest& guest, const HostSocket& server, bool host_first) {
  const uint16_t port = guest.connect(at(kGateway, server.port()));
  TcpConnection& connection = guest.connection(port);
  ASSERT_TRUE(guest.run_until([&] { return connection.established; }));
  UniqueFd peer = server.await_connection();
  ASSERT_TRUE(peer);
  guest.write(connection, "?");
  std::string asked;
  ASSERT_TRUE(guest.run_until([&] {
    read_into(peer, asked);
    return !asked.empty();
  }));
  ASSERT_EQ(::write(peer.get(), "!", 1), 1);
  ASSERT_TRUE(guest.run_until([&] { return connection.received == "!"; }));
  if (host_first) {
    peer.reset();
    ASSERT_TRUE(guest.run_until([&] { return connection.ended; }));
    guest.close(connection);
    ASSERT_TRUE(
        guest.run_until([&] { return connection.acknowledged == connection.next || connection.reset; }));
  } else {
    guest.close(connection);
    std::array<char, 1> end;
    ASSERT_TRUE(guest.run_until([&] { return ::read(peer.get(), end.data(), 1) == 0; }));
    peer.reset();
    ASSERT_TRUE(guest.run_until([&] { return connection.ended; }));
  }
}

class UserNetMany : public testing::TestWithParam<bool> {};

TEST_P(UserNetMany, LeaveNothingBehindOneAfterTheOther) {
  const HostSocket server(SOCK_STREAM, kLoopback);
  const size_t before = open_descriptors();
  UserCable cable(with_loopback());
  const size_t idle = open_descriptors();
  constexpr size_t kRound = 500;
  const size_t rounds = connections_in_sequence() / kRound;
  size_t allocated = 0;
  for (size_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < kRound; ++i) {
      converse(cable.guest, server, GetParam());
      if (HasFatalFailure()) FAIL() << "connection " << round * kRound + i;
      // What waits for stray segments (RFC 9293, 3.6.1) goes early where many do.
      EXPECT_LT(open_descriptors(), idle + 300);
    }
    // That goes at once with a reset, and with it all that there is of a connection.
    cable.guest.reset_all();
    EXPECT_EQ(open_descriptors(), idle);
    if (round == 0) allocated = allocated_bytes();
    EXPECT_LT(allocated_bytes(), allocated + 16384) << "bytes after the first round and after " << round;
  }
  cable.net.reset();
  EXPECT_EQ(open_descriptors(), before);
}
INSTANTIATE_TEST_SUITE_P(GuestOrHostEndsThem, UserNetMany, testing::Bool());

TEST(UserNetMany, Carries500AtOnce) {
  const HostSocket server(SOCK_STREAM, kLoopback);
  UserCable cable(with_loopback());
  const size_t before = open_descriptors();
  std::vector<uint16_t> ports;
  std::vector<UniqueFd> peers;
  for (int i = 0; i < 500; ++i) ports.push_back(cable.guest.connect(at(kGateway, server.port())));
  ASSERT_TRUE(cable.guest.run_until([&] {
    for (UniqueFd peer = server.accept(); peer; peer = server.accept()) peers.push_back(std::move(peer));
    return peers.size() == 500 &&
           std::ranges::all_of(ports, [&](uint16_t p) { return cable.guest.connection(p).established; });
  }));
  for (const UniqueFd& peer : peers) ASSERT_EQ(::write(peer.get(), "x", 1), 1);
  EXPECT_TRUE(cable.guest.run_until([&] {
    return std::ranges::all_of(ports, [&](uint16_t p) { return cable.guest.connection(p).received == "x"; });
  }));
  for (const uint16_t port : ports) cable.guest.close(cable.guest.connection(port));
  cable.guest.settle();
  peers.clear();
  EXPECT_TRUE(cable.guest.run_until([&] { return open_descriptors() == before; }));
}

TEST(UserNetMany, WaitWhereThereIsNoRoomForMore) {
  const HostSocket server(SOCK_STREAM, kLoopback);
  UserNetConfig config = with_loopback();
  config.max_sessions = 8;
  UserCable cable(config);
  std::vector<uint16_t> ports;
  for (int i = 0; i < 20; ++i) ports.push_back(cable.guest.connect(at(kGateway, server.port())));
  const auto established = [&] {
    return std::ranges::count_if(ports, [&](uint16_t p) { return cable.guest.connection(p).established; });
  };
  ASSERT_TRUE(cable.guest.run_until([&] { return established() == 8; }));
  cable.guest.settle();
  EXPECT_EQ(established(), 8);
  // The first makes room for another.
  const auto first =
      std::ranges::find_if(ports, [&](uint16_t p) { return cable.guest.connection(p).established; });
  cable.guest.close(cable.guest.connection(*first));
  std::vector<UniqueFd> peers;
  while (peers.size() < 8) {
    peers.push_back(server.await_connection());
    ASSERT_TRUE(peers.back());
  }
  peers.clear();
  EXPECT_TRUE(cable.guest.run_until(
      [&] { return cable.guest.connection(*first).ended || cable.guest.connection(*first).reset; }));
  TcpConnection& next = cable.guest.connection(cable.guest.connect(at(kGateway, server.port())));
  EXPECT_TRUE(cable.guest.run_until([&] { return next.established; }));
}

TEST(UserNetMany, LeaveForwardedPortsToWaitInTheBacklog) {
  UserNetConfig config;
  config.max_sessions = 4;
  config.forwards = {{.address = kLoopback.address, .host_port = free_port(), .guest_port = 22}};
  UserCable cable(config);
  cable.guest.listen(22);
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 10; ++i) {
    clients.push_back(connect_to(at("127.0.0.1", config.forwards[0].host_port)));
    EXPECT_TRUE(clients.back()) << "the host's kernel takes it, though the guest has not";
  }
  const size_t before = open_descriptors();
  ASSERT_TRUE(cable.guest.run_until([&] { return cable.guest.accepted(22) != nullptr; }));
  cable.guest.settle();
  EXPECT_LE(open_descriptors(), before + 4);
}

TEST(UserNetMany, LetAMachineWithoutConnectionsSleep) {
  UserNetConfig config;
  config.forwards = {
      {.address = kLoopback.address, .host_port = free_port(), .guest_port = 22},
      {.address = kLoopback.address, .host_port = free_port(SOCK_DGRAM), .guest_port = 53, .udp = true}};
  UserCable cable(config);
  cable.guest.settle();
  // Its only timer is for router advertisements, minutes away.
  size_t timers = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
    std::ifstream info(entry.path());
    for (std::string line; std::getline(info, line);) {
      if (!line.starts_with("it_value: (")) continue;
      ++timers;
      EXPECT_GT(std::stoi(line.substr(11)), 60) << line;
    }
  }
  EXPECT_EQ(timers, 1U);
}

}  // namespace
}  // namespace minivmm::test
