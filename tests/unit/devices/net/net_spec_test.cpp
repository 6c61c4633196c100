#include "devices/net/net_spec.h"

#include <gtest/gtest.h>

#include "devices/net/open_net.h"
#include "tests/conformance/fake_host.h"
#include "vmm/core/error.h"

namespace minivmm::test {
namespace {

TEST(NetSpec, ABackEndAloneLeavesTheRestOpen) {
  const NetSpec spec = parse_net_spec("null");
  EXPECT_EQ(spec.backend, "null");
  EXPECT_FALSE(spec.mac);
  EXPECT_EQ(spec.mtu, 0);
  EXPECT_EQ(spec.rate.per_second, 0U);
  EXPECT_EQ(spec.pcap, "");
  EXPECT_EQ(spec.speed, 0U);
  EXPECT_FALSE(spec.queues);
}

TEST(NetSpec, EverySettingArrives) {
  const NetSpec spec = parse_net_spec(
      "null,mac=52:54:00:12:34:56,mtu=9000,rate=100M,rate-burst=64k,pcap=a,,b.pcap,queues=4,speed=2.5G");
  ASSERT_TRUE(spec.mac);
  EXPECT_EQ(spec.mac->text(), "52:54:00:12:34:56");
  EXPECT_EQ(spec.mtu, 9000);
  EXPECT_EQ(spec.rate.per_second, 12'500'000U);
  EXPECT_EQ(spec.rate.burst, 65536U);
  EXPECT_EQ(spec.pcap, "a,b.pcap");
  EXPECT_EQ(spec.queues, 4);
  EXPECT_EQ(spec.speed, 2'500U);
}

TEST(NetSpec, SettingsAloneAreTheDefaultBackEnds) {
  const NetSpec spec = parse_net_spec("mac=52:54:00:12:34:56");
  EXPECT_EQ(spec.backend, spec_head(kDefaultNetSpec));
  EXPECT_EQ(parse_net_spec("").backend, spec.backend);
}

TEST(NetSpec, WhatMakesNoSenseIsRefused) {
  for (const char* text : {"wifi",
                           "null,colour=red",
                           "null,mac=52:54:00:12:34",
                           "null,mac=53:54:00:12:34:56",
                           "null,mac=00:00:00:00:00:00",
                           "null,mac=ff:ff:ff:ff:ff:ff",
                           "null,mac=52:54:00:12:34:5g",
                           "null,mac",
                           "null,mtu=67",
                           "null,mtu=65536",
                           "null,mtu=x",
                           "null,mtu=",
                           "null,rate=",
                           "null,rate=7k",
                           "null,rate=fast",
                           "null,rate=-1G",
                           "null,rate-burst=64k",
                           "null,pcap",
                           "null,pcap=",
                           "null,speed",
                           "null,speed=0",
                           "null,speed=999k",
                           "null,speed=fast",
                           "null,queues=0",
                           "null,queues=65",
                           "null,queues=2,queues=2",
                           "null,queues=+2"}) {
    EXPECT_THROW(parse_net_spec(text), ConfigError) << text;
  }
}

TEST(NetSpec, RatesAreMeasuredAsLinksAre) {
  EXPECT_EQ(parse_bit_rate("9600"), 9600U);
  EXPECT_EQ(parse_bit_rate("56k"), 56'000U);
  EXPECT_EQ(parse_bit_rate("100Mbit"), 100'000'000U);
  EXPECT_EQ(parse_bit_rate("2.5G"), 2'500'000'000U);
  EXPECT_EQ(parse_bit_rate("10Gbps"), 10'000'000'000U);
  for (const char* text : {"", "G", "1T", "1Mb", "1 M", "nan", "inf", "-1", "1e300", "1MM"}) {
    EXPECT_FALSE(parse_bit_rate(text)) << text;
  }
}

TEST(OpenNet, EachBackEndHasANameAWordOfHelpAndKeysOfItsOwn) {
  for (const NetBackendType& type : net_backend_types()) {
    EXPECT_EQ(find_net_backend(type.name), &type);
    EXPECT_FALSE(type.help.empty());
    EXPECT_NE(net_help().find(type.name), std::string::npos);
    for (const std::string_view key : type.keys) {
      for (const std::string_view common : {"mac", "mtu", "rate", "rate-burst", "pcap", "queues", "speed"}) {
        EXPECT_NE(key, common) << type.name;
      }
    }
  }
  EXPECT_EQ(find_net_backend("wifi"), nullptr);
  EXPECT_EQ(find_net_backend(kNoNet), nullptr);
}

TEST(OpenNet, NoneIsNoCard) {
  Log log;
  ManualTime time;
  EXPECT_EQ(open_net(parse_net_spec("none"), {.log = log, .time = time}), nullptr);
}

TEST(OpenNet, NullIsACardWithoutALink) {
  Log log;
  ManualTime time;
  const auto net = open_net(parse_net_spec("null,queues=3,mtu=1400"), {.log = log, .time = time});
  ASSERT_NE(net, nullptr);
  EXPECT_FALSE(net->link_up());
  EXPECT_EQ(net->traits().queue_pairs, 3);
  EXPECT_EQ(net->traits().mtu, 1400);
}

}  // namespace
}  // namespace minivmm::test
