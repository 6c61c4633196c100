#include "devices/net/user/user_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "devices/net/user/open_user.h"
#include "tests/unit/devices/net/net_guest.h"
#include "vmm/core/error.h"

namespace minivmm::test {
namespace {

using namespace user_net;
using testing::HasSubstr;

UserNetConfig parse(const std::string& text, uint16_t mtu = 0) {
  return parse_user_net(SpecString("--net", text, kUserNetKeys), mtu);
}

void expect_refused(const std::string& text, const std::string& why) {
  try {
    parse(text);
    FAIL() << text << " is taken";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr(why));
  }
}

TEST(UserNetConfig, HasTheUsualNetwork) {
  const UserNetConfig config = parse("user");
  EXPECT_EQ(config.gateway(), at("10.0.2.2", 0).address);
  EXPECT_EQ(config.dns(), at("10.0.2.3", 0).address);
  EXPECT_EQ(config.guest(), at("10.0.2.15", 0).address);
  EXPECT_FALSE(config.restricted);
  EXPECT_FALSE(config.host_loopback);
}

TEST(UserNetConfig, TakesAnotherNetwork) {
  const UserNetConfig config = parse("user,net=192.168.64.0/18");
  EXPECT_EQ(config.guest(), at("192.168.64.15", 0).address);
  EXPECT_EQ(config.broadcast(), at("192.168.127.255", 0).address);
  expect_refused("user,net=10.0.2.0", "10.0.2.0/24");
  expect_refused("user,net=10.0.2.0/28", "8 to 27");
  expect_refused("user,net=10.0.2.1/24", "bits past");
}

TEST(UserNetConfig, ForwardsToTheHostAloneUnlessItIsToldMore) {
  EXPECT_EQ(parse_forward("2222:22").text(), "127.0.0.1:2222:22");
  EXPECT_EQ(parse_forward("0.0.0.0:80:8080/tcp").text(), "0.0.0.0:80:8080");
  EXPECT_EQ(parse_forward("*:80:8080").text(), "0.0.0.0:80:8080");
  EXPECT_EQ(parse_forward("[::1]:53:5353/udp").text(), "[::1]:53:5353/udp");
  EXPECT_EQ(parse("user,forward=1:2,forward=3:4").forwards.size(), 2U);
}

TEST(UserNetConfig, RefusesForwardsThatMakeNoSense) {
  for (const char* text : {"", "22", ":22", "22:", "0:22", "22:65536", "host:1:2", "::1:1:2", "1.2.3:1:2",
                           "1:2/sctp", "1:2x", "[1.2.3.4]:1:2", "[::1]1:2", "-1:2"}) {
    EXPECT_THROW(parse_forward(text), ConfigError) << text;
  }
  expect_refused("user,ipv6=off,forward=[::1]:1:2", "ipv6=off");
}

TEST(UserNetConfig, TakesServicesOfTheHost) {
  const GuestForward tcp = parse_guest_forward("10.0.2.100:80-tcp:127.0.0.1:8080");
  EXPECT_EQ(tcp.guest, at("10.0.2.100", 80));
  EXPECT_EQ(tcp.host, at("127.0.0.1", 8080));
  EXPECT_EQ(parse_guest_forward("10.0.2.100:80-unix:/run/a-b:c").unix_path, "/run/a-b:c");
  for (const char* text : {"", "10.0.2.100:80", "10.0.2.100-tcp:127.0.0.1:1", "10.0.2.100:80-tcp:127.0.0.1",
                           "10.0.2.100:80-unix:", "10.0.2.100:80-udp:127.0.0.1:1"}) {
    EXPECT_THROW(parse_guest_forward(text), ConfigError) << text;
  }
  expect_refused("user,guestfwd=10.0.2.2:80-unix:/a", "10.0.2.100");
  expect_refused("user,guestfwd=10.0.3.100:80-unix:/a", "10.0.2.100");
  expect_refused("user,guestfwd=10.0.2.100:80-unix:/a,guestfwd=10.0.2.100:80-unix:/b", "two places");
}

TEST(UserNetConfig, RefusesWhatContradictsItself) {
  expect_refused("user,restrict=on,host-loopback=on", "guestfwd");
  expect_refused("user,restrict=on,dns=1.1.1.1", "no name server");
  expect_refused("user,dns=one.one", "dns=one.one");
  expect_refused("user,hostname=a_b", "letters");
  EXPECT_THROW(parse("user", 1000), ConfigError);
  EXPECT_EQ(parse("user,ipv6=off", 1000).mtu, 1000);
}

TEST(UserNetConfig, GivesAPublishedPortToACardOnUserNetworking) {
  EXPECT_EQ(with_forward("user,restrict=on", "2222:22"), "user,restrict=on,forward=127.0.0.1:2222:22");
  EXPECT_EQ(with_forward("null", "2222:22"), std::nullopt);
  EXPECT_THROW(with_forward("user", "22"), ConfigError);
}

}  // namespace
}  // namespace minivmm::test
