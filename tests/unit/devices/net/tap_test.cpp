// Real tap devices, in a network namespace of the test's own.
#include "devices/net/tap/open_tap.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "devices/net/link_speed.h"
#include "devices/net/tap/tap_backend.h"
#include "devices/net/tap/tap_device.h"
#include "tests/unit/devices/net/namespace_test.h"

namespace minivmm {
namespace {

using namespace test;
using testing::HasSubstr;

TEST(Tap, IsMadeBroughtUpAndRemoved) {
  in_own_network([] {
    {
      const auto net = open("tap,ifname=tap9,mtu=9000");
      const auto link = Links().find("tap9");
      ASSERT_TRUE(link);
      EXPECT_TRUE(link->running());
      EXPECT_EQ(link->mtu, 9000u);
      EXPECT_EQ(link->address.bytes[0], 0xfe) << "no bridge takes its address";
      EXPECT_TRUE(net->link_up());
      EXPECT_EQ(net->traits().mtu, 9000);
      EXPECT_NE(net->traits().takes & net_offload::kTso4, 0);
    }
    EXPECT_FALSE(Links().find("tap9"));
  });
}

TEST(Tap, FramesGoBothWays) {
  in_own_network([] {
    const auto net = open("tap,ifname=tap9");
    NetQueue& queue = net->queue(0);
    const Waiter waiter(queue);
    const PacketSocket host("tap9");
    const Bytes frame = make_frame(mac(1), mac(2), 1000, 5);
    ASSERT_TRUE(went_out(send(queue, frame)));
    EXPECT_EQ(host.receive(), packet_of(frame));
    host.send(packet_of(frame));
    const auto heard =
        receive_if(queue, waiter, [&](const Bytes& f) { return packet_of(f) == packet_of(frame); });
    EXPECT_TRUE(heard);
  });
}

TEST(Tap, AFrameThatDoesNotFitIsGoneAndSaid) {
  in_own_network([] {
    const auto net = open("tap,ifname=tap9");
    NetQueue& queue = net->queue(0);
    const Waiter waiter(queue);
    const PacketSocket host("tap9");
    const Bytes frame = make_frame(mac(1), mac(2), 1000, 5);
    const auto size_of = [&](size_t room) -> std::optional<size_t> {
      host.send(packet_of(frame));
      for (;;) {
        const auto got = receive_now(queue, room);
        if (!got) return std::nullopt;
        if (got->size() >= 1000) return got->size();  // the host's own, such as IPv6's, are smaller
        if (got->empty() && !waiter.wait()) return 0;
      }
    };
    EXPECT_EQ(size_of(frame.size()), frame.size()) << "it fits exactly";
    EXPECT_EQ(size_of(frame.size() - 1), std::nullopt);
  });
}

TEST(Tap, BecomesAPortOfTheBridgeAndKeepsItsMtu) {
  in_own_network([] {
    Links links;
    ASSERT_EQ(links.add_bridge("br9", {{0x0a, 0, 0, 0, 0, 9}}, ""), 0);
    ASSERT_EQ(links.set_mtu(links.find("br9")->index, 4000), 0);
    const auto net = open("tap,ifname=tap9,bridge=br9");
    EXPECT_EQ(links.find("tap9")->master, links.find("br9")->index);
    EXPECT_EQ(links.find("br9")->mtu, 4000u);
    EXPECT_EQ(net->traits().mtu, 4000);
  });
}

TEST(Tap, OneThatOthersMadeStaysAndLeavesTheBridge) {
  in_own_network([] {
    Links links;
    make_persistent_tap("tap9");
    ASSERT_EQ(links.add_bridge("br9", {{0x0a, 0, 0, 0, 0, 9}}, ""), 0);
    {
      const auto net = open("tap,ifname=tap9,bridge=br9");
      EXPECT_EQ(links.find("tap9")->master, links.find("br9")->index);
    }
    ASSERT_TRUE(links.find("tap9"));
    EXPECT_EQ(links.find("tap9")->master, 0);
    EXPECT_TRUE(links.find("br9"));
  });
}

TEST(Tap, AMissingBridgeIsToldWithWhatMendsIt) {
  in_own_network([] {
    EXPECT_THAT(error_of("tap,bridge=br9"), HasSubstr("ip link add br9 type bridge"));
    EXPECT_THAT(error_of("tap,bridge=lo"), HasSubstr("lo is no bridge"));
    EXPECT_THAT(error_of("tap,ifname=lo"), HasSubstr("no tap device"));
    EXPECT_EQ(Links().all().size(), 1u) << "and nothing is left behind";
  });
}

TEST(Tap, AUserWithoutRightsIsToldWhatMendsIt) {
  in_own_network([] {
    make_persistent_tap("tap8");
    drop_rights();
    EXPECT_THAT(error_of("tap,ifname=tap9"), HasSubstr("ip tuntap add tap9 mode tap user $USER"));
    EXPECT_THAT(error_of("tap"), HasSubstr("--net user"));
    EXPECT_THAT(error_of("hostonly"), HasSubstr("CAP_NET_ADMIN"));
  });
}

TEST(Tap, OneInUseIsToldSo) {
  in_own_network([] {
    const auto net = open("tap,ifname=tap9");
    EXPECT_THAT(error_of("tap,ifname=tap9"), HasSubstr("another program has it open"));
  });
}

TEST(Tap, TellsTheSpeedThatTheInterfaceSays) {
  in_own_network([] {
    make_persistent_tap("tap9");
    EXPECT_NE(open("tap,ifname=tap9")->traits().speed, kLinkSpeedUnknown);
    run("PATH=$PATH:/usr/sbin:/sbin ethtool -s tap9 speed 2500 duplex full autoneg off");
    EXPECT_EQ(open("tap,ifname=tap9")->traits().speed, 2500U);
    EXPECT_EQ(link_speed("no-such"), kLinkSpeedUnknown);
  });
}

TEST(Tap, TheLinkFollowsTheInterface) {
  in_own_network([] {
    const auto net = open("tap,ifname=tap9");
    const LinkWatcher link(*net);
    run("ip link set tap9 down");
    EXPECT_TRUE(link.becomes(false));
    EXPECT_EQ(send(net->queue(0), make_frame(mac(1), mac(2))).error().code, Errc::closed);
    run("ip link set tap9 up");
    EXPECT_TRUE(link.becomes(true));
    EXPECT_TRUE(send(net->queue(0), make_frame(mac(1), mac(2))));
    run("ip link set tap9 carrier off");
    EXPECT_TRUE(link.becomes(false));
    run("ip link set tap9 carrier on");
    EXPECT_TRUE(link.becomes(true));
  });
}

TEST(Tap, ADeletedOneIsAPulledCableAndComesBackByName) {
  in_own_network([] {
    make_persistent_tap("tap9");
    const auto net = open("tap,ifname=tap9");
    NetQueue& queue = net->queue(0);
    const LinkWatcher link(*net);
    const Waiter waiter(queue);
    run("ip link del tap9");
    EXPECT_TRUE(link.becomes(false));
    EXPECT_EQ(receive_now(queue).error().code, Errc::closed);
    EXPECT_EQ(send(queue, make_frame(mac(1), mac(2))).error().code, Errc::closed);

    run("ip tuntap add tap9 mode tap && ip link set tap9 up");
    ASSERT_TRUE(link.becomes(true));
    const PacketSocket host("tap9");
    const Bytes frame = make_frame(mac(1), mac(2), 100, 5);
    host.send(packet_of(frame));
    EXPECT_TRUE(receive_if(queue, waiter, [&](const Bytes& f) { return packet_of(f) == packet_of(frame); }));
    ASSERT_TRUE(send(queue, frame));
    EXPECT_EQ(host.receive(), packet_of(frame));
  });
}

TEST(Tap, QueuesThatTheGuestDoesNotUseGetNothing) {
  in_own_network([] {
    const auto net = open("tap,ifname=tap9,queues=4");
    ASSERT_EQ(net->traits().queue_pairs, 4);
    const PacketSocket host("tap9");
    const auto reached = [&](uint16_t pairs) {
      EXPECT_TRUE(net->use_queue_pairs(pairs));
      std::array<unsigned, 4> frames{};
      for (uint8_t flow = 0; flow < 64; ++flow) host.send(udp_packet(flow));
      for (uint16_t i = 0; i < 4; ++i) {
        for (auto frame = receive_now(net->queue(i)); frame && !frame->empty();
             frame = receive_now(net->queue(i)))
          ++frames[i];
      }
      return frames;
    };
    const auto one = reached(1);
    EXPECT_GE(one[0], 64u);
    EXPECT_EQ(one[1] + one[2] + one[3], 0u);
    const auto four = reached(4);
    for (const unsigned count : four) EXPECT_GT(count, 0u);
    const auto two = reached(2);
    EXPECT_EQ(two[2] + two[3], 0u);
  });
}

TEST(Tap, OffloadsAreGivenOnceTheyAreAllowed) {
  in_own_network([] {
    const auto net = open("tap,ifname=tap9");
    const auto offered = net->traits().gives;
    EXPECT_TRUE(net->allow(offered));
    EXPECT_TRUE(net->allow(net_offload::kChecksum));
    EXPECT_TRUE(net->allow(0));
  });
}

TEST(Tap, TakesOpenDescriptors) {
  in_own_network([] {
    std::string name = "tap9";
    std::array<int, 2> fds{};
    for (int& fd : fds) {
      fd = ::open("/dev/net/tun", O_RDWR);
      ASSERT_EQ(attach_tap(fd, name, true), 0);
    }
    run("ip link set tap9 up");
    {
      const auto net = open("tap,fd=" + std::to_string(fds[0]) + ":" + std::to_string(fds[1]));
      EXPECT_EQ(net->traits().queue_pairs, 2);
      EXPECT_EQ(dynamic_cast<TapBackend&>(*net).queue(1).fd(), fds[1]);
      const PacketSocket host("tap9");
      const Bytes frame = make_frame(mac(1), mac(2), 60, 1);
      ASSERT_TRUE(send(net->queue(0), frame));
      EXPECT_EQ(host.receive(), packet_of(frame));
    }
    EXPECT_EQ(::fcntl(fds[0], F_GETFD), -1) << "they are closed with it";
  });
}

TEST(Tap, DescriptorsOfAnotherKindAreRefused) {
  in_own_network([] {
    const int null = ::open("/dev/null", O_RDWR);
    EXPECT_THAT(error_of("tap,fd=" + std::to_string(null)), HasSubstr("not an open tap device"));
    const int bare = ::open("/dev/net/tun", O_RDWR);
    ifreq request{};
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    ASSERT_EQ(::ioctl(bare, TUNSETIFF, &request), 0);
    EXPECT_THAT(error_of("tap,fd=" + std::to_string(bare)), HasSubstr("without IFF_VNET_HDR"));
  });
  for (const char* text :
       {"tap,fd=", "tap,fd=1", "tap,fd=x", "tap,fd=5:", "tap,fd=5:5", "tap,fd=9,ifname=tap0",
        "tap,ifname=a/b", "macvtap", "hostonly,net=1.2.3.4", "hostonly,net=10.0.0.0/24", "internal,name=../x",
        "internal,queues=2", "passt,socket=/x,tcp=1"}) {
    EXPECT_THROW(open(text), ConfigError) << text;
  }
}

}  // namespace
}  // namespace minivmm
