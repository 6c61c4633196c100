#include "devices/net/netlink.h"

#include <gtest/gtest.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>

#include <random>

#include "devices/net/links.h"

namespace minivmm {
namespace {

std::vector<std::byte> link_message() {
  NetlinkRequest request(RTM_NEWLINK, 0);
  ifinfomsg header{};
  header.ifi_index = 7;
  header.ifi_flags = IFF_UP;
  request.append(header);
  request.attribute(IFLA_IFNAME, std::string_view("tap7"));
  request.attribute(IFLA_MTU, uint32_t{9000});
  const size_t info = request.begin_nested(IFLA_LINKINFO);
  request.attribute(IFLA_INFO_KIND, std::string_view("tun"));
  const size_t data = request.begin_nested(IFLA_INFO_DATA);
  const std::byte yes{1};
  request.attribute(7, std::span(&yes, 1));
  request.end_nested(data);
  request.end_nested(info);
  const auto bytes = request.finish(42);
  return {bytes.begin(), bytes.end()};
}

TEST(Netlink, AMessageComesApartAsItWasBuilt) {
  const auto bytes = link_message();
  unsigned count = 0;
  for_each_message(bytes, [&](const NetlinkMessage& message) {
    ++count;
    EXPECT_EQ(message.type, RTM_NEWLINK);
    EXPECT_EQ(message.sequence, 42u);
    const auto link = parse_link(message);
    ASSERT_TRUE(link);
    EXPECT_EQ(link->index, 7);
    EXPECT_EQ(link->name, "tap7");
    EXPECT_EQ(link->mtu, 9000u);
    EXPECT_EQ(link->kind, "tun");
    EXPECT_TRUE(link->multi_queue);
    EXPECT_FALSE(link->persistent);
    EXPECT_TRUE(link->admin_up());
    EXPECT_FALSE(link->running());
  });
  EXPECT_EQ(count, 1u);
}

TEST(Netlink, CutMessagesAreLeftOut) {
  const auto bytes = link_message();
  for (size_t size = 0; size < bytes.size(); ++size) {
    for_each_message(std::span(bytes).first(size), [](const NetlinkMessage&) { ADD_FAILURE(); });
  }
}

TEST(Netlink, WrongLengthsAreSurvived) {
  std::mt19937 random(1);
  for (int round = 0; round < 20'000; ++round) {
    auto bytes = link_message();
    for (int i = 0; i < 4; ++i) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    for_each_message(bytes, [](const NetlinkMessage& message) { parse_link(message); });
  }
}

TEST(Netlink, ABridgesWordOnItsPortIsNoDeletion) {
  NetlinkRequest request(RTM_DELLINK, 0);
  ifinfomsg header{};
  header.ifi_family = 7;  // AF_BRIDGE
  header.ifi_index = 3;
  request.append(header);
  for_each_message(request.finish(1),
                   [](const NetlinkMessage& message) { EXPECT_FALSE(parse_link(message)); });
}

TEST(Netlink, NetworksAreReadAndCompared) {
  const auto network = parse_ipv4_network("192.168.56.1/24");
  ASSERT_TRUE(network);
  EXPECT_EQ(format_ipv4(network->address), "192.168.56.1");
  EXPECT_EQ(network->mask(), 0xffffff00u);
  EXPECT_TRUE(network->overlaps(*parse_ipv4_network("192.168.0.0/16")));
  EXPECT_FALSE(network->overlaps(*parse_ipv4_network("192.168.57.0/24")));
  for (const char* bad :
       {"", "192.168.56.1", "192.168.56/24", "192.168.56.1/33", "192.168.56.1/", "1.2.3.4/a"})
    EXPECT_FALSE(parse_ipv4_network(bad)) << bad;
}

TEST(Netlink, InterfaceNamesAreAsTheKernelTakesThem) {
  for (const char* good : {"eth0", "br-lan", "tap_1", "a", "fifteen-letters"})
    EXPECT_TRUE(is_interface_name(good));
  for (const char* bad : {"", ".", "..", "a/b", "a b", "a:b", "tap%d", "sixteen--letters"})
    EXPECT_FALSE(is_interface_name(bad)) << bad;
}

TEST(Netlink, TheLoopbackInterfaceIsFound) {
  Links links;
  const auto loopback = links.find("lo");
  ASSERT_TRUE(loopback);
  EXPECT_EQ(links.find(loopback->index)->name, "lo");
  EXPECT_FALSE(links.find("no-such-link"));
}

}  // namespace
}  // namespace minivmm
