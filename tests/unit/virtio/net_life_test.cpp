// The card over its life: what it tells the driver, its link, several pairs, and starts and stops under
// traffic.
#include <bit>
#include <thread>

#include "tests/unit/virtio/net_fixture.h"
#include "vmm/core/state.h"

namespace minivmm::test {
namespace {

using net::Ack;
using virtio::feature_bit;

class NetLifeTest : public NetTest {
 protected:
  static std::vector<std::byte> save(const StateUnit& unit) {
    StateWriter writer;
    unit.save(writer);
    return {writer.data().begin(), writer.data().end()};
  }
  static bool load(StateUnit& unit, std::span<const std::byte> data) {
    auto reader = StateReader::parse(data);
    return reader && unit.load(*reader).has_value();
  }
  bool wait_config(auto condition) {
    for (;;) {
      const uint64_t seen = guest_->transport->config_interrupts().count();
      if (condition()) return true;
      if (!guest_->transport->config_interrupts().wait_past(seen)) return false;
    }
  }
  // One frame each way over a pair.
  void expect_works(uint16_t pair) {
    const auto rx_queue = static_cast<uint16_t>(2 * pair);
    const auto tx_queue = static_cast<uint16_t>(rx_queue + 1);
    FakeRing& in = guest_->rings[rx_queue];
    FakeRing& out = guest_->rings[tx_queue];
    const uint16_t received = in.used_index();
    in.descriptor(50, kHighBase + uint64_t{0x8000} * rx_queue, 2048, virtio::kDescWrite);
    in.offer(50);
    guest_->transport->kick(rx_queue);
    wire(pair).give(make_frame(77));
    EXPECT_TRUE(guest_->wait_used(rx_queue, static_cast<uint16_t>(received + 1)));
    const size_t sent = wire(pair).sent().size();
    EXPECT_TRUE(guest_->memory.write(kHighBase + uint64_t{0x8000} * tx_queue, make_frame(88)));
    out.descriptor(50, kHighBase + uint64_t{0x8000} * tx_queue, 100);
    EXPECT_TRUE(guest_->submit(50, tx_queue));
    EXPECT_EQ(wire(pair).sent().size(), sent + 1);
  }
};

TEST_P(NetLifeTest, TheConfigurationTellsAddressLinkAndSize) {
  NetTraits traits = plain(3);
  traits.mtu = 9000;
  traits.speed = 10'000;
  start(traits);
  const net::Config seen = config();
  EXPECT_EQ(std::memcmp(seen.mac, kCardMac.bytes.data(), 6), 0);
  EXPECT_EQ(seen.status, net::kStatusLinkUp);
  EXPECT_EQ(seen.max_virtqueue_pairs, 3);
  EXPECT_EQ(seen.mtu, 9000);
  EXPECT_EQ(seen.speed, 10'000U);
  EXPECT_EQ(seen.duplex, net::kDuplexFull);
}

TEST(NetSpeed, IsWhatTheUserSaysBeforeWhatTheBackEndDoes) {
  Log log;
  const auto told = [&log](uint32_t asked) {
    VirtioNet card(std::make_unique<FakeNet>(NetTraits{.kind = "fake", .speed = 10'000}),
                   VirtioNet::Options{.index = 0, .mac = kCardMac, .speed = asked}, log);
    std::array<std::byte, sizeof(net::Config)> bytes{};
    card.read_config(0, bytes);
    return std::bit_cast<net::Config>(bytes).speed;
  };
  EXPECT_EQ(told(0), 10'000U);
  EXPECT_EQ(told(2'500), 2'500U);
}

TEST_P(NetLifeTest, OnlyWhatTheBackEndCanIsOffered) {
  make(plain());
  uint64_t offered = guest_->offered();
  for (const unsigned feature :
       {net::kFeatureCsum, net::kFeatureGuestCsum, net::kFeatureHostTso4, net::kFeatureGuestTso6,
        net::kFeatureHostUso, net::kFeatureMtu, net::kFeatureMq}) {
    EXPECT_EQ(offered & feature_bit(feature), 0U) << feature;
  }
  for (const unsigned feature : {net::kFeatureMac, net::kFeatureStatus, net::kFeatureMrgRxbuf,
                                 net::kFeatureCtrlVq, net::kFeatureSpeedDuplex}) {
    EXPECT_NE(offered & feature_bit(feature), 0U) << feature;
  }
  NetTraits traits = offloading(2);
  traits.mtu = 1400;
  make(traits);
  offered = guest_->offered();
  for (const unsigned feature :
       {net::kFeatureCsum, net::kFeatureGuestCsum, net::kFeatureHostTso4, net::kFeatureHostTso6,
        net::kFeatureHostEcn, net::kFeatureGuestTso4, net::kFeatureGuestTso6, net::kFeatureGuestEcn,
        net::kFeatureGuestUso4, net::kFeatureGuestUso6, net::kFeatureHostUso, net::kFeatureMtu,
        net::kFeatureMq}) {
    EXPECT_NE(offered & feature_bit(feature), 0U) << feature;
  }
}

TEST_P(NetLifeTest, ALinkThatGoesDownAndUpIsTold) {
  start(plain());
  net_->set_link(false);
  EXPECT_TRUE(wait_config([&] { return config().status == 0; }));
  net_->set_link(true);
  EXPECT_TRUE(wait_config([&] { return config().status == net::kStatusLinkUp; }));
}

TEST_P(NetLifeTest, ALinkThatChangesDuringAPauseIsToldAfterIt) {
  start(plain());
  guest_->transport->transport().pause();
  const uint64_t before = guest_->transport->config_interrupts().count();
  net_->set_link(false);
  EXPECT_EQ(guest_->transport->config_interrupts().count(), before);
  guest_->transport->transport().resume();
  EXPECT_GT(guest_->transport->config_interrupts().count(), before);
  EXPECT_EQ(config().status, 0);
}

TEST_P(NetLifeTest, AnAnnouncementIsAskedForUntilTheDriverSaysItIsDone) {
  start(plain());
  device_->announce();
  EXPECT_TRUE(wait_config([&] { return config().status == (net::kStatusLinkUp | net::kStatusAnnounce); }));
  EXPECT_EQ(command(net::kClassAnnounce, net::kAnnounceAck, std::span<const std::byte>()), Ack::ok);
  EXPECT_EQ(config().status, net::kStatusLinkUp);
  EXPECT_EQ(command(net::kClassAnnounce, net::kAnnounceAck, std::span<const std::byte>()), Ack::error);
}

TEST_P(NetLifeTest, EveryPairWorks) {
  start(plain(4));
  for (uint16_t pair = 0; pair < 4; ++pair) expect_works(pair);
}

TEST_P(NetLifeTest, WithoutMultiqueueTheFirstPairWorksAndTheThirdQueueTakesCommands) {
  start(plain(4), without({net::kFeatureMq}));
  expect_works(0);
  EXPECT_EQ(command(net::kClassRx, net::kRxPromisc, uint8_t{1}), Ack::ok);
  const uint16_t before = guest_->rings[3].used_index();
  guest_->probe_chain(4, 3);
  guest_->rings[3].offer(4);
  guest_->transport->kick(3);
  expect_works(0);
  EXPECT_EQ(guest_->rings[3].used_index(), before);  // nobody's queue
}

TEST_P(NetLifeTest, AQueueIsResetAloneWhileTheOthersGoOn) {
  start(plain());
  for (int round = 0; round < 3; ++round) {
    for (const uint16_t queue : {kRxQueue, kTxQueue, uint16_t{2}}) {
      guest_->transport->select_queue(queue);
      guest_->transport->reset_queue();
      EXPECT_FALSE(guest_->transport->queue_enabled());
      EXPECT_EQ(guest_->transport->queue_max(), guest_->sizes[queue]);
      guest_->transport->kick(queue);
      const uint16_t other = queue == kTxQueue ? kRxQueue : kTxQueue;
      EXPECT_TRUE(guest_->alive(other));
      guest_->set_up_queue_again(queue);
      EXPECT_TRUE(guest_->transport->queue_enabled());
      EXPECT_TRUE(guest_->alive(queue));
    }
    expect_works(0);
  }
}

TEST_P(NetLifeTest, AQueueIsNotResetWithoutTheFeature) {
  start(plain(), virtio::kFeatureRingReset);
  guest_->transport->select_queue(kTxQueue);
  guest_->transport->reset_queue();
  EXPECT_TRUE(guest_->transport->queue_enabled());
  EXPECT_TRUE(guest_->alive(kTxQueue));
}

TEST_P(NetLifeTest, ARestoredCardIsWhatTheSavedOneWasAndAnnouncesItself) {
  start(offloading(2));
  control_queue_ = 4;
  const MacAddress changed{{0x52, 1, 2, 3, 4, 5}};
  ASSERT_EQ(command(net::kClassMac, net::kMacAddrSet, changed), Ack::ok);
  ASSERT_EQ(command(net::kClassMq, net::kMqPairsSet, uint16_t{2}), Ack::ok);
  ASSERT_EQ(command(net::kClassGuestOffloads, net::kGuestOffloadsSet, uint64_t{2}), Ack::ok);
  ASSERT_EQ(command(net::kClassRx, net::kRxPromisc, uint8_t{0}), Ack::ok);
  ASSERT_EQ(command(net::kClassVlan, net::kVlanAdd, uint16_t{4095}), Ack::ok);
  guest_->transport->transport().pause();
  const auto transport_state = save(guest_->transport->state());
  const auto device_state = save(*device_);

  auto net = std::make_unique<FakeNet>(offloading(2));
  FakeNet* restored_net = net.get();
  auto device =
      std::make_unique<VirtioNet>(std::move(net), VirtioNet::Options{.index = 0, .mac = kCardMac}, log_);
  VirtioNet* restored = device.get();
  FakeGuest target(GetParam(), std::move(device), log_);
  ASSERT_TRUE(load(target.transport->state(), transport_state));
  ASSERT_TRUE(load(*restored, device_state));
  EXPECT_EQ(save(*restored), device_state);
  target.transport->transport().resume();
  EXPECT_EQ(restored_net->pairs(), 2);
  EXPECT_EQ(restored_net->allowed(), net_offload::kChecksum);
  net::Config seen{};
  target.transport->read_config(0, std::as_writable_bytes(std::span(&seen, 1)));
  EXPECT_EQ(std::memcmp(seen.mac, changed.bytes.data(), 6), 0);
  EXPECT_EQ(seen.status, net::kStatusLinkUp | net::kStatusAnnounce);
}

TEST_P(NetLifeTest, ASavedCardOfAnotherShapeIsRefused) {
  start(plain(2));
  guest_->transport->transport().pause();
  const auto state = save(*device_);
  make(plain(1));
  EXPECT_FALSE(load(*device_, state));
}

TEST_P(NetLifeTest, DamagedStateIsRefusedOrHarmless) {
  start(plain(2));
  guest_->transport->transport().pause();
  const auto state = save(*device_);
  make(plain(2));
  for (size_t len = 0; len < state.size(); ++len) load(*device_, std::span(state).first(len));
  for (size_t at = 0; at < state.size(); ++at) {
    for (const auto flip : {std::byte{1}, std::byte{0x80}, std::byte{0xff}}) {
      auto damaged = state;
      damaged[at] ^= flip;
      load(*device_, damaged);
    }
  }
  guest_->bring_up();
  expect_works(0);
}

TEST_P(NetLifeTest, TheGuestsTrafficSurvivesPausesResetsAndLinkChanges) {
  start(offloading(2));
  std::atomic<bool> stop{false};
  wire().keep_sent(false);
  std::thread cable([&] {
    for (unsigned i = 0; !stop.load(std::memory_order_relaxed); ++i) {
      if (wire().coming() < 100) wire().give(make_frame(60 + i % 3000));
      if (i % 64 == 0) wire().set_room(i % 128 == 0);
      if (i % 512 == 0) net_->set_link(i % 1024 == 0);
      std::this_thread::yield();
    }
    wire().set_room(true);
  });
  for (uint16_t i = 0; i < 32; ++i) {
    ASSERT_TRUE(guest_->memory.write(tx_buffer(i), make_frame(100)));
  }
  for (int round = 0; round < 40; ++round) {
    while (static_cast<uint16_t>(tx().avail_index() - tx().used_index()) < 60) {
      const auto index = static_cast<uint16_t>(tx().avail_index() % 32);
      tx().descriptor(index, tx_buffer(index), kNetHeaderSize + 100);
      tx().offer(index);
    }
    const auto pending = static_cast<uint16_t>(rx().avail_index() - rx().used_index());
    offer_buffers(60U - pending, 1000);
    guest_->transport->kick(kTxQueue);
    switch (round % 4) {
      case 0: guest_->transport->transport().pause(); break;
      case 1: guest_->transport->transport().resume(); break;
      case 2: device_->announce(); break;
      default: guest_->bring_up(); break;
    }
    if (round % 4 == 0) continue;
    command(net::kClassRx, net::kRxPromisc, static_cast<uint8_t>(round % 2));
  }
  stop = true;
  cable.join();
  guest_->transport->transport().resume();
  guest_->bring_up();
  expect_works(1);
}

MV_OVER_BOTH_TRANSPORTS(NetLifeTest);

}  // namespace
}  // namespace minivmm::test
