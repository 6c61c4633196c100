#include "devices/net/tap/dhcp.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/unit/devices/net/dhcp_questions.h"

namespace minivmm {
namespace {

using namespace test;

constexpr uint32_t kHost = 0xc0a83801;  // 192.168.56.1
constexpr uint32_t kGiven = 0xc0a83865;
constexpr size_t kIp = kDhcpIp;
constexpr size_t kBootp = kDhcpBootp;

const DhcpServer kServer{{kHost, 24}, {{0x0a, 0, 192, 168, 56, 1}}};

std::optional<Bytes> answer(const Bytes& frame) {
  return answer_dhcp(kServer, frame, [](const MacAddress& card) -> std::optional<uint32_t> {
    EXPECT_EQ(card, mac(1));
    return kGiven;
  });
}

uint8_t type_of(const Bytes& frame) {
  return std::to_integer<uint8_t>(frame[kBootp + 242]);
}

TEST(Dhcp, OffersAnAddress) {
  const auto frame = answer(dhcp_question({}));
  ASSERT_TRUE(frame);
  EXPECT_EQ(type_of(*frame), 2);
  EXPECT_EQ(get_be32(*frame, kBootp + 4), 0xabcdef01u);
  EXPECT_EQ(get_be32(*frame, kBootp + 16), kGiven);
  EXPECT_EQ(get_be32(*frame, kIp + 12), kHost);
  EXPECT_EQ(get_be32(*frame, kIp + 16), kGiven);
  EXPECT_EQ(fold(word_sum(*frame, kIp, kIp + 20)), 0xffff);
  EXPECT_EQ(get_be16(*frame, kIp + 2), frame->size() - kIp);
}

TEST(Dhcp, ConfirmsTheAddressItOffered) {
  const auto frame = answer(dhcp_question({.type = 3, .requested = kGiven, .server = kHost}));
  ASSERT_TRUE(frame);
  EXPECT_EQ(type_of(*frame), 5);
}

TEST(Dhcp, RefusesAnotherAddress) {
  const auto frame = answer(dhcp_question({.type = 3, .requested = kGiven + 1}));
  ASSERT_TRUE(frame);
  EXPECT_EQ(type_of(*frame), 6);
  EXPECT_EQ(get_be32(*frame, kBootp + 16), 0u);
  EXPECT_EQ(get_be32(*frame, kIp + 16), 0xffffffffu);
}

TEST(Dhcp, AnswersBroadcastToOneThatAsksForIt) {
  const auto frame = answer(dhcp_question({.flags = 0x8000}));
  ASSERT_TRUE(frame);
  EXPECT_EQ(get_be32(*frame, kIp + 16), 0xffffffffu);
  EXPECT_EQ((*frame)[0], std::byte{0xff});
}

TEST(Dhcp, LeavesOtherServersQuestionsAlone) {
  EXPECT_FALSE(answer(dhcp_question({.type = 3, .requested = kGiven, .server = kHost + 5})));
  EXPECT_FALSE(answer(dhcp_question({.type = 7}))) << "a release";
}

TEST(Dhcp, CutAndDamagedQuestionsAreSurvived) {
  const Bytes whole = dhcp_question({.type = 3, .requested = kGiven, .server = kHost});
  for (size_t size = 0; size < whole.size(); ++size) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_FALSE(answer(cut)) << size;
  }
  std::mt19937 random(1);
  const auto lease = [](const MacAddress&) -> std::optional<uint32_t> { return kGiven; };
  for (int round = 0; round < 20'000; ++round) {
    Bytes damaged = whole;
    for (int i = 0; i < 3; ++i) damaged[random() % damaged.size()] = static_cast<std::byte>(random());
    answer_dhcp(kServer, damaged, lease);
  }
}

TEST(Dhcp, GivesOutNeitherTheNetworksNorTheBroadcastAddress) {
  for (const uint8_t prefix : {uint8_t{8}, uint8_t{16}, uint8_t{24}, uint8_t{25}, uint8_t{30}}) {
    const Ipv4Network network{0x0a000001, prefix};
    const DhcpRange range = dhcp_range(network);
    EXPECT_GE(range.first, 1u);
    EXPECT_GE(range.count, 1u);
    EXPECT_LT(range.first + range.count - 1, ~network.mask());
  }
  EXPECT_EQ(dhcp_range({kHost, 24}).first, 101u);
}

}  // namespace
}  // namespace minivmm
