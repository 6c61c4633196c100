// The driver's commands over the control queue, and what a card then lets through.
#include <thread>

#include "tests/unit/virtio/net_fixture.h"
#include "virtio/device/net_offloads.h"
#include "vmm/core/state.h"

namespace minivmm::test {
namespace {

using net::Ack;

constexpr MacAddress kOther{{0x52, 0x54, 0, 9, 9, 9}};
constexpr MacAddress kGroup{{0x33, 0x33, 0, 0, 0, 1}};
constexpr MacAddress kBroadcast{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

Bytes frame_to(const MacAddress& to, std::optional<uint16_t> vlan = std::nullopt) {
  Bytes bytes = make_frame(64);
  std::memcpy(bytes.data() + kNetHeaderSize, to.bytes.data(), to.bytes.size());
  bytes[kNetHeaderSize + 12] = vlan ? std::byte{0x81} : std::byte{0x08};
  bytes[kNetHeaderSize + 13] = std::byte{0};
  if (vlan) {
    bytes[kNetHeaderSize + 14] = static_cast<std::byte>(*vlan >> 8);
    bytes[kNetHeaderSize + 15] = static_cast<std::byte>(*vlan & 0xff);
  }
  return bytes;
}

// As in 5.1.6.5.2.
Bytes mac_tables(std::span<const MacAddress> unicast, std::span<const MacAddress> multicast) {
  Bytes bytes;
  for (const auto& table : {unicast, multicast}) {
    const auto count = static_cast<uint32_t>(table.size());
    const auto count_bytes = std::as_bytes(std::span(&count, 1));
    bytes.insert(bytes.end(), count_bytes.begin(), count_bytes.end());
    const auto macs = std::as_bytes(table);
    bytes.insert(bytes.end(), macs.begin(), macs.end());
  }
  return bytes;
}

class NetControlTest : public NetTest {
 protected:
  void SetUp() override {
    start(plain());
    offer_buffers(60, 2048);
  }
  std::optional<Ack> mode(uint8_t code, uint8_t on) { return command(net::kClassRx, code, on); }
  std::optional<Ack> tables(std::span<const MacAddress> unicast, std::span<const MacAddress> multicast) {
    return command(net::kClassMac, net::kMacTableSet, mac_tables(unicast, multicast));
  }
  // Whether the card lets it through: frames to the card's own address, and only those, always pass in
  // between.
  bool passes(const Bytes& frame) {
    const uint16_t before = rx().used_index();
    give(frame);
    return has_passed(before);
  }
  void give(const Bytes& frame) {
    wire().give(frame);
    wire().give(make_frame_to_us());
  }
  bool has_passed(uint16_t before) {
    EXPECT_TRUE(wire().wait_taken(taken_ += 2));
    uint16_t at = before;
    for (bool came = wait_used_past(before); rx().used(at).len != kMarkLength + kNetHeaderSize;) {
      ++at;
      came = came && wait_used_past(at);
      EXPECT_TRUE(came) << "the mark did not come";
      if (!came) break;
    }
    return at != before;
  }

 private:
  static constexpr size_t kMarkLength = 99;
  static Bytes make_frame_to_us() {
    Bytes bytes = make_frame(kMarkLength);
    std::memcpy(bytes.data() + kNetHeaderSize, kCardMac.bytes.data(), kCardMac.bytes.size());
    return bytes;
  }
  bool wait_used_past(uint16_t index) {
    for (;;) {
      const uint64_t seen = guest_->transport->queue_interrupts(kRxQueue).count();
      if (rx().used_index() != index) return true;
      rx().set_used_event(index);
      if (rx().used_index() != index) return true;
      if (!guest_->transport->queue_interrupts(kRxQueue).wait_past(seen)) return false;
    }
  }
  uint64_t taken_ = 0;
};

TEST_P(NetControlTest, EverythingPassesUntilTheDriverSaysOtherwise) {
  EXPECT_TRUE(passes(frame_to(kOther)));
  EXPECT_TRUE(passes(frame_to(kGroup)));
  EXPECT_TRUE(passes(frame_to(kOther, uint16_t{5})));
}

TEST_P(NetControlTest, ACardThatIsNotPromiscuousTakesItsOwnFramesAndBroadcasts) {
  EXPECT_EQ(mode(net::kRxPromisc, 0), Ack::ok);
  EXPECT_TRUE(passes(frame_to(kCardMac)));
  EXPECT_TRUE(passes(frame_to(kBroadcast)));
  EXPECT_FALSE(passes(frame_to(kOther)));
  EXPECT_FALSE(passes(frame_to(kGroup)));
  EXPECT_EQ(mode(net::kRxPromisc, 1), Ack::ok);
  EXPECT_TRUE(passes(frame_to(kOther)));
}

TEST_P(NetControlTest, ACommandThatIsDoneHoldsForTheFrameThatComesNext) {
  ASSERT_TRUE(wire().hold_receives()) << "with what held before the command";
  EXPECT_EQ(mode(net::kRxPromisc, 0), Ack::ok);
  const uint16_t before = rx().used_index();
  give(frame_to(kOther));
  wire().let_receives_go();
  EXPECT_FALSE(has_passed(before));
}

TEST_P(NetControlTest, EachModeDoesWhatItsNameSays) {
  ASSERT_EQ(mode(net::kRxPromisc, 0), Ack::ok);
  EXPECT_EQ(mode(net::kRxAllMulti, 1), Ack::ok);
  EXPECT_TRUE(passes(frame_to(kGroup)));
  EXPECT_EQ(mode(net::kRxNoMulti, 1), Ack::ok);
  EXPECT_FALSE(passes(frame_to(kGroup)));
  EXPECT_EQ(mode(net::kRxAllUni, 1), Ack::ok);
  EXPECT_TRUE(passes(frame_to(kOther)));
  EXPECT_EQ(mode(net::kRxAllUni, 0), Ack::ok);
  EXPECT_FALSE(passes(frame_to(kOther)));
  EXPECT_EQ(mode(net::kRxNoBroadcast, 1), Ack::ok);
  EXPECT_FALSE(passes(frame_to(kBroadcast)));
}

TEST_P(NetControlTest, AddressesInTheTablesPass) {
  ASSERT_EQ(mode(net::kRxPromisc, 0), Ack::ok);
  EXPECT_EQ(tables(std::array{kOther}, std::array{kGroup}), Ack::ok);
  EXPECT_TRUE(passes(frame_to(kOther)));
  EXPECT_TRUE(passes(frame_to(kGroup)));
  EXPECT_EQ(tables({}, {}), Ack::ok);
  EXPECT_FALSE(passes(frame_to(kOther)));
  EXPECT_FALSE(passes(frame_to(kGroup)));
}

TEST_P(NetControlTest, MoreAddressesThanATableHoldsLetAllOfTheirKindPass) {
  ASSERT_EQ(mode(net::kRxPromisc, 0), Ack::ok);
  const std::vector<MacAddress> many(net::MacTable::kMost + 1, MacAddress{{0x52, 1, 1, 1, 1, 1}});
  EXPECT_EQ(tables(many, {}), Ack::ok);
  EXPECT_TRUE(passes(frame_to(kOther)));
  EXPECT_FALSE(passes(frame_to(kGroup)));
  EXPECT_EQ(tables({}, many), Ack::ok);
  EXPECT_FALSE(passes(frame_to(kOther)));
  EXPECT_TRUE(passes(frame_to(kGroup)));
}

TEST_P(NetControlTest, OnlyTheVlansThatWereAddedPass) {
  ASSERT_EQ(mode(net::kRxPromisc, 0), Ack::ok);
  EXPECT_TRUE(passes(frame_to(kCardMac)));
  EXPECT_TRUE(passes(frame_to(kCardMac, uint16_t{0xe000})));  // a priority, and no VLAN
  EXPECT_FALSE(passes(frame_to(kCardMac, uint16_t{100})));
  EXPECT_EQ(command(net::kClassVlan, net::kVlanAdd, uint16_t{100}), Ack::ok);
  EXPECT_TRUE(passes(frame_to(kCardMac, uint16_t{100})));
  EXPECT_TRUE(passes(frame_to(kCardMac, uint16_t{0x6000 | 100})));
  EXPECT_FALSE(passes(frame_to(kCardMac, uint16_t{101})));
  EXPECT_EQ(command(net::kClassVlan, net::kVlanDel, uint16_t{100}), Ack::ok);
  EXPECT_FALSE(passes(frame_to(kCardMac, uint16_t{100})));
}

TEST_P(NetControlTest, TheCardTakesAnotherAddressUntilAReset) {
  ASSERT_EQ(mode(net::kRxPromisc, 0), Ack::ok);
  EXPECT_EQ(command(net::kClassMac, net::kMacAddrSet, kOther), Ack::ok);
  EXPECT_EQ(std::memcmp(config().mac, kOther.bytes.data(), 6), 0);
  EXPECT_EQ(tables(std::array{kCardMac}, {}), Ack::ok);  // so that passes() goes on
  EXPECT_TRUE(passes(frame_to(kOther)));
  guest_->bring_up();
  EXPECT_EQ(std::memcmp(config().mac, kCardMac.bytes.data(), 6), 0);
}

TEST_P(NetControlTest, CommandsThatMakeNoSenseFailAndChangeNothing) {
  ASSERT_EQ(mode(net::kRxPromisc, 0), Ack::ok);
  EXPECT_EQ(mode(6, 1), Ack::error);
  EXPECT_EQ(command(net::kClassRx, net::kRxPromisc, uint16_t{1}), Ack::error);
  EXPECT_EQ(command(net::kClassRx, net::kRxPromisc, std::span<const std::byte>()), Ack::error);
  EXPECT_EQ(command(net::kClassMac, net::kMacAddrSet, kGroup), Ack::error);
  EXPECT_EQ(command(net::kClassMac, net::kMacAddrSet, uint32_t{0}), Ack::error);
  EXPECT_EQ(command(net::kClassVlan, net::kVlanAdd, uint16_t{4096}), Ack::error);
  EXPECT_EQ(command(net::kClassVlan, 2, uint16_t{1}), Ack::error);
  EXPECT_EQ(command(net::kClassMq, net::kMqPairsSet, uint16_t{1}), Ack::error);  // MQ was not offered
  EXPECT_EQ(command(net::kClassAnnounce, net::kAnnounceAck, std::span<const std::byte>()), Ack::error);
  EXPECT_EQ(command(net::kClassGuestOffloads, net::kGuestOffloadsSet, uint64_t{1} << 7), Ack::error);
  EXPECT_EQ(command(77, 0, uint8_t{0}), Ack::error);
  EXPECT_FALSE(passes(frame_to(kOther)));
  EXPECT_EQ(std::memcmp(config().mac, kCardMac.bytes.data(), 6), 0);
}

TEST_P(NetControlTest, AddressTablesThatLieAboutTheirLengthFail) {
  ASSERT_EQ(mode(net::kRxPromisc, 0), Ack::ok);
  const Bytes good = mac_tables(std::array{kOther}, std::array{kGroup});
  for (size_t len = 0; len < good.size(); ++len) {
    EXPECT_EQ(command(net::kClassMac, net::kMacTableSet, std::span(good).first(len)), Ack::error) << len;
  }
  for (const uint32_t count : {2U, 0x2aaa'aaabU, 0xffff'ffffU}) {
    Bytes lying = good;
    std::memcpy(lying.data(), &count, sizeof count);
    EXPECT_EQ(command(net::kClassMac, net::kMacTableSet, lying), Ack::error) << count;
  }
  Bytes more = good;
  more.push_back(std::byte{0});
  EXPECT_EQ(command(net::kClassMac, net::kMacTableSet, more), Ack::error);
  EXPECT_FALSE(passes(frame_to(kOther)));
}

TEST_P(NetControlTest, ACommandWithoutRoomForItsAnswerComesBackEmpty) {
  FakeRing& ring = guest_->rings[control_queue_];
  ring.descriptor(0, kBuffers, 3);
  const auto used = guest_->submit(0, static_cast<uint16_t>(control_queue_));
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, 0U);
  EXPECT_EQ(mode(net::kRxPromisc, 1), Ack::ok);
}

TEST_P(NetControlTest, CommandsOfFeaturesThatWereNotAcceptedFail) {
  start(offloading(2), without({net::kFeatureCtrlRx, net::kFeatureCtrlVlan, net::kFeatureCtrlMacAddr,
                                net::kFeatureCtrlRxExtra, net::kFeatureMq, net::kFeatureCtrlGuestOffloads,
                                net::kFeatureGuestAnnounce}));
  // Without MQ the control queue is the third (5.1.2).
  EXPECT_EQ(mode(net::kRxPromisc, 1), Ack::error);
  EXPECT_EQ(mode(net::kRxAllUni, 1), Ack::error);
  EXPECT_EQ(tables({}, {}), Ack::error);
  EXPECT_EQ(command(net::kClassMac, net::kMacAddrSet, kOther), Ack::error);
  EXPECT_EQ(command(net::kClassVlan, net::kVlanAdd, uint16_t{1}), Ack::error);
  EXPECT_EQ(command(net::kClassMq, net::kMqPairsSet, uint16_t{2}), Ack::error);
  EXPECT_EQ(command(net::kClassGuestOffloads, net::kGuestOffloadsSet, uint64_t{0}), Ack::error);
  device_->announce();
  EXPECT_EQ(config().status, net::kStatusLinkUp);
}

TEST_P(NetControlTest, TheDriverChangesWhatFramesMayAskOfIt) {
  start(offloading());
  EXPECT_EQ(net_->allowed(), kAllOffloads);
  EXPECT_EQ(command(net::kClassGuestOffloads, net::kGuestOffloadsSet, uint64_t{0}), Ack::ok);
  EXPECT_EQ(net_->allowed(), 0);
  const uint64_t some = net::guest_features(net_offload::kChecksum | net_offload::kTso6);
  EXPECT_EQ(command(net::kClassGuestOffloads, net::kGuestOffloadsSet, some), Ack::ok);
  EXPECT_EQ(net_->allowed(), net_offload::kChecksum | net_offload::kTso6);
  EXPECT_EQ(command(net::kClassGuestOffloads, net::kGuestOffloadsSet, some | (uint64_t{1} << 11)),
            Ack::error);
  guest_->bring_up(without({net::kFeatureGuestCsum}));
  EXPECT_EQ(net_->allowed(), 0);  // all others need the checksum
}

TEST_P(NetControlTest, TheDriverChoosesHowManyPairsItUses) {
  start(plain(4));
  control_queue_ = 8;
  EXPECT_EQ(config().max_virtqueue_pairs, 4);
  EXPECT_EQ(net_->pairs(), 1);
  EXPECT_EQ(command(net::kClassMq, net::kMqPairsSet, uint16_t{4}), Ack::ok);
  EXPECT_EQ(net_->pairs(), 4);
  for (const uint16_t pairs : {uint16_t{0}, uint16_t{5}, uint16_t{0x8000}}) {
    EXPECT_EQ(command(net::kClassMq, net::kMqPairsSet, pairs), Ack::error) << pairs;
  }
  EXPECT_EQ(net_->pairs(), 4);
  guest_->bring_up();
  EXPECT_EQ(net_->pairs(), 1);
}

TEST_P(NetControlTest, ACommandThatTheHostRefusesFailsAndChangesNothing) {
  start(plain(2));
  control_queue_ = 4;
  net_->refuse(true);
  EXPECT_EQ(command(net::kClassMq, net::kMqPairsSet, uint16_t{2}), Ack::error);
  net_->refuse(false);
  EXPECT_EQ(command(net::kClassRx, net::kRxPromisc, uint8_t{0}), Ack::ok);
  EXPECT_EQ(net_->pairs(), 1);
}

MV_OVER_BOTH_TRANSPORTS(NetControlTest);

}  // namespace
}  // namespace minivmm::test
