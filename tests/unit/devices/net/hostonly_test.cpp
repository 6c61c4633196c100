// hostonly and macvtap, in a network namespace of the test's own.
#include "devices/net/tap/hostonly.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if.h>

#include "devices/net/netns_lock.h"
#include "devices/net/tap/dhcp.h"
#include "tests/unit/devices/net/dhcp_questions.h"
#include "tests/unit/devices/net/namespace_test.h"

namespace minivmm {
namespace {

using namespace test;
using testing::HasSubstr;

// Asks and waits for the answer; 0: none came.
uint32_t ask_for_address(NetBackend& net, const MacAddress& card) {
  const Waiter waiter(net.queue(0));
  Bytes frame(kNetHeaderSize);
  const Bytes question = dhcp_question({.card = card});
  frame.insert(frame.end(), question.begin(), question.end());
  EXPECT_TRUE(send(net.queue(0), frame));
  const auto answer = receive_if(net.queue(0), waiter, [](const Bytes& f) {
    return f.size() > kNetHeaderSize + kDhcpBootp + 240 && f[kNetHeaderSize + 35] == std::byte{67};
  });
  return answer ? get_be32(packet_of(*answer), kDhcpBootp + 16) : 0;
}

TEST(HostOnly, MachinesShareABridgeThatGoesWithTheLast) {
  in_own_network([] {
    Links links;
    auto first = open("hostonly");
    auto second = open("hostonly");
    const auto bridge = links.find(std::string(kHostOnlyBridge));
    ASSERT_TRUE(bridge);
    EXPECT_TRUE(bridge->admin_up());
    const auto addresses = links.ipv4_addresses();
    EXPECT_TRUE(std::ranges::any_of(addresses, [&](const auto& address) {
      return address.link == bridge->index && format_ipv4(address.network.address) == "192.168.56.1" &&
             address.network.prefix == 24;
    }));
    first.reset();
    EXPECT_TRUE(links.find(std::string(kHostOnlyBridge)));
    second.reset();
    EXPECT_FALSE(links.find(std::string(kHostOnlyBridge)));
  });
}

TEST(HostOnly, EachGuestGetsAnAddressOfItsOwnAndKeepsIt) {
  in_own_network([] {
    auto first = open("hostonly");
    auto second = open("hostonly");
    const uint32_t a = ask_for_address(*first, mac(1));
    const uint32_t b = ask_for_address(*second, mac(2));
    EXPECT_EQ(a & 0xffffff00, 0xc0a83800u);
    EXPECT_EQ(b & 0xffffff00, 0xc0a83800u);
    EXPECT_NE(a, b);
    EXPECT_EQ(ask_for_address(*first, mac(1)), a);
    first.reset();
    first = open("hostonly");
    EXPECT_EQ(ask_for_address(*first, mac(1)), a) << "after a restart, too";
  });
}

TEST(HostOnly, ABridgeThatOthersMadeStays) {
  in_own_network([] {
    run("ip link add br9 type bridge && ip addr add 10.9.0.1/16 dev br9");
    {
      const auto net = open("hostonly,bridge=br9");
      EXPECT_EQ(ask_for_address(*net, mac(1)) >> 16, 0x0a09u);
    }
    EXPECT_TRUE(Links().find("br9"));
    EXPECT_THAT(error_of("hostonly,bridge=br9,net=10.8.0.1/16"), HasSubstr("10.9.0.1/16"));
  });
}

TEST(HostOnly, ANetworkThatIsInUseIsRefused) {
  in_own_network([] {
    run("ip link add br9 type bridge && ip addr add 192.168.56.7/24 dev br9");
    EXPECT_THAT(error_of("hostonly"), HasSubstr("of br9 overlaps"));
    EXPECT_FALSE(Links().find(std::string(kHostOnlyBridge)));
  });
}

TEST(NetnsLock, IsHeldOnceAndFreedWithItsOwner) {
  in_own_network([] {
    {
      const auto lock = try_netns_lock("test");
      EXPECT_TRUE(lock);
      EXPECT_FALSE(try_netns_lock("test"));
      EXPECT_THROW(take_netns_lock("test", std::chrono::milliseconds(1)), HostError);
    }
    EXPECT_TRUE(try_netns_lock("test"));
  });
}

bool has_macvtap() {
  return std::system(
             "ip link add mv0test type veth peer name mv1test 2>/dev/null && "  // NOLINT
             "ip link add link mv0test name mvttest type macvtap 2>/dev/null && "
             "ip link del mv0test") == 0;
}

void make_cable() {
  run("ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up");
}

TEST(Macvtap, SitsOnAnInterfaceAndIsRemoved) {
  in_own_network([] {
    if (!has_macvtap()) GTEST_SKIP() << "this kernel has no macvtap";
    make_cable();
    Links links;
    const size_t before = links.all().size();
    {
      const auto net = open("macvtap,link=v0,mac=52:54:00:00:00:01");
      const auto link = links.find("minivmmv0");
      ASSERT_TRUE(link);
      EXPECT_EQ(link->address, mac(1));
      const PacketSocket wire("v1");
      const Bytes out = make_frame(mac(2), mac(1), 100, 5);
      ASSERT_TRUE(send(net->queue(0), out));
      EXPECT_EQ(wire.receive(), packet_of(out));
      const Bytes in = make_frame(mac(1), mac(2), 100, 6);
      const Waiter waiter(net->queue(0));
      wire.send(packet_of(in));
      EXPECT_TRUE(
          receive_if(net->queue(0), waiter, [&](const Bytes& f) { return packet_of(f) == packet_of(in); }));
      const LinkWatcher watcher(*net);
      run("ip link set v0 down");
      EXPECT_TRUE(watcher.becomes(false));
      run("ip link set v0 up");
      EXPECT_TRUE(watcher.becomes(true));
      run("ip link del minivmmv0");
      EXPECT_TRUE(watcher.becomes(false));
    }
    EXPECT_EQ(links.all().size(), before);
    EXPECT_THAT(error_of("macvtap,link=none"), HasSubstr("use the interface none"));
  });
}

// Both have the same interfaces, numbered alike, and their devices' nodes are in the same /dev.
TEST(Macvtap, IsNotTakenForOneOfAnotherNetworkNamespace) {
  in_own_network([] {
    if (!has_macvtap()) GTEST_SKIP() << "this kernel has no macvtap";
    make_cable();
    run("ip link add link v0 name theirs type macvtap && ip link set theirs up");
    in_own_network([] {
      has_macvtap();
      make_cable();
      const auto ours = open("macvtap,link=v0");
      const PacketSocket wire("v1");
      const Bytes frame = make_frame(mac(2), mac(1), 100, 5);
      ASSERT_TRUE(send(ours->queue(0), frame));
      EXPECT_EQ(wire.receive(), packet_of(frame));
    });
  });
}

TEST(Macvtap, WhatAKilledOneLeftIsRemovedByTheNext) {
  in_own_network([] {
    if (!has_macvtap()) GTEST_SKIP() << "this kernel has no macvtap";
    make_cable();
    run("ip link add link v0 name minivmmv5 type macvtap && ip link set minivmmv5 alias minivmm");
    run("ip link add link v0 name other type macvtap");
    const auto net = open("macvtap,link=v0");
    EXPECT_FALSE(Links().find("minivmmv5"));
    EXPECT_TRUE(Links().find("other"));
    EXPECT_TRUE(Links().find("minivmmv0"));
    const auto second = open("macvtap,link=v0,mac=52:54:00:00:00:02");
    EXPECT_TRUE(Links().find("minivmmv0")) << "a living one's stays";
  });
}

}  // namespace
}  // namespace minivmm
