// A network card whose queues a vhost-user back end works on, over both transports.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "devices/net/link_state.h"
#include "devices/net/net_vhost.h"
#include "tests/conformance/fake_guest.h"
#include "tests/unit/virtio/hostile_remote.h"
#include "tests/unit/virtio/vhost_back_end.h"
#include "virtio/device/net.h"
#include "virtio/device/net_offloads.h"

namespace minivmm::test {
namespace {

using virtio::feature_bit;

// What open_net() makes of --net vhost-user, with the back end in the test.
class RemoteNet final : public NetBackend, private NetQueue {
 public:
  RemoteNet(uint16_t pairs, uint16_t mtu, bool leaves_work)
      : pairs_(pairs), mtu_(mtu), leaves_work_(leaves_work) {
    vhost_.socket = connect(FakeBackEnd::good());
    vhost_.reconnect = [this]() -> Result<UniqueFd> { return connect(FakeBackEnd::good()); };
    vhost_.set_link = [this](bool there) { link_.set(there); };
  }
  NetTraits traits() const override {
    return {.kind = "vhost-user", .queue_pairs = pairs_, .takes = 0xff, .gives = 0xff};
  }
  NetQueue& queue(uint16_t) override { return *this; }
  NetVhost* vhost() override { return &vhost_; }
  bool link_up() const override { return link_.up(); }
  void watch_link(std::function<void()> changed) override { link_.watch(std::move(changed)); }

  FakeBackEnd& back_end() { return back_ends_.latest(); }

 private:
  int fd() const override { return -1; }
  Result<size_t> receive(std::span<const iovec>) override { return 0; }
  Result<bool> send(std::span<const iovec>) override { return true; }
  UniqueFd connect(FakeBackEnd::Manners manners) {
    manners.features |= feature_bit(net::kFeatureMrgRxbuf) | feature_bit(net::kFeatureCsum) |
                        feature_bit(net::kFeatureGuestCsum) | feature_bit(net::kFeatureCtrlGuestOffloads);
    manners.leaves_work = leaves_work_;
    if (mtu_ != 0) {
      net::Config config{};
      config.mtu = mtu_;
      const auto bytes = std::as_bytes(std::span(&config, 1));
      manners.features |= feature_bit(net::kFeatureMtu);
      manners.protocol_features |= vhost_user::kProtocolConfig;
      manners.config.assign(bytes.begin(), bytes.end());
    }
    auto [ours, theirs] = socket_pair();
    back_ends_.add(std::move(theirs), std::move(manners));
    return std::move(ours);
  }

  uint16_t pairs_;
  uint16_t mtu_;
  bool leaves_work_;
  BackEnds back_ends_;
  NetVhost vhost_;
  LinkState link_{true};
};

class VhostCard : public testing::TestWithParam<TransportKind> {
 protected:
  void make(uint16_t pairs = 1) {
    guest_.reset();
    auto net = std::make_unique<RemoteNet>(pairs, mtu_, leaves_work_);
    net_ = net.get();
    auto card = std::make_unique<VirtioNet>(std::move(net), VirtioNet::Options{}, log_);
    guest_ = std::make_unique<FakeGuest>(GetParam(), std::move(card), log_, true);
  }
  bool offers(unsigned feature) { return (guest_->offered() & feature_bit(feature)) != 0; }
  net::Config config() {
    std::array<std::byte, sizeof(net::Config)> bytes{};
    guest_->transport->read_config(0, bytes);
    net::Config config{};
    std::memcpy(&config, bytes.data(), sizeof config);
    return config;
  }
  bool link_up() { return (config().status & net::kStatusLinkUp) != 0; }
  bool wait_link(bool up) {
    for (;;) {
      const uint64_t seen = guest_->transport->config_interrupts().count();
      if (link_up() == up) return true;
      if (!guest_->transport->config_interrupts().wait_past(seen)) return false;
    }
  }
  // The driver's choice of so many pairs, by the control queue.
  uint8_t choose_pairs(uint16_t pairs, uint16_t control_queue) {
    const std::array<uint8_t, 4> command{net::kClassMq, net::kMqPairsSet, static_cast<uint8_t>(pairs), 0};
    EXPECT_TRUE(guest_->memory.write(kBuffers, std::as_bytes(std::span(command))));
    FakeRing& ring = guest_->rings[control_queue];
    ring.descriptor(0, kBuffers, sizeof command, virtio::kDescNext, 1);
    ring.descriptor(1, kBuffers + 0x100, 1, virtio::kDescWrite);
    EXPECT_TRUE(guest_->submit(0, control_queue));
    return *guest_->memory.load<uint8_t>(kBuffers + 0x100);
  }

  Log log_;
  uint16_t mtu_ = 0;  // that the back end says; 0: it says nothing
  bool leaves_work_ = false;
  RemoteNet* net_ = nullptr;
  std::unique_ptr<FakeGuest> guest_;
};

TEST_P(VhostCard, OffersWhatBothOfUsCan) {
  make();
  EXPECT_TRUE(offers(net::kFeatureMrgRxbuf));
  EXPECT_TRUE(offers(net::kFeatureCsum));
  EXPECT_FALSE(offers(net::kFeatureHostTso4)) << "the back end does not know it";
  EXPECT_TRUE(offers(net::kFeatureCtrlVq)) << "that is ours";
  EXPECT_TRUE(offers(net::kFeatureMac));
  EXPECT_FALSE(offers(net::kFeatureCtrlGuestOffloads)) << "nobody could tell it";
}

TEST_P(VhostCard, HasTheMtuThatTheBackEndSays) {
  make();
  EXPECT_FALSE(offers(net::kFeatureMtu));
  mtu_ = 1400;
  make();
  EXPECT_TRUE(offers(net::kFeatureMtu));
  EXPECT_EQ(config().mtu, 1400);
  mtu_ = 3;
  make();
  EXPECT_FALSE(offers(net::kFeatureMtu)) << "no MTU that a network has";
}

TEST_P(VhostCard, ItsQueuesAreWorkedOnElsewhereAndItsCommandsHere) {
  make(2);
  guest_->bring_up();
  EXPECT_TRUE(guest_->alive(0));
  EXPECT_TRUE(guest_->alive(1));
  EXPECT_EQ(choose_pairs(2, 4), 0);
  EXPECT_TRUE(guest_->alive(2));
  EXPECT_TRUE(guest_->alive(3));
  EXPECT_EQ(choose_pairs(1, 4), 0);
  EXPECT_EQ(choose_pairs(3, 4), 1);
  EXPECT_TRUE(guest_->alive(1));
}

TEST_P(VhostCard, KeepsWorkingAfterPausesAndResets) {
  make();
  guest_->bring_up();
  for (int i = 0; i < 20; ++i) {
    guest_->transport->transport().pause();
    guest_->transport->transport().resume();
    ASSERT_TRUE(guest_->alive(0));
    ASSERT_TRUE(guest_->alive(1));
  }
  guest_->bring_up();
  EXPECT_TRUE(guest_->alive(0));
}

TEST_P(VhostCard, IsSavedWithItsPlaceAndLoaded) {
  make();
  guest_->bring_up();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(guest_->alive(1));
  guest_->transport->transport().pause();
  StateWriter device;
  StateWriter transport;
  guest_->transport->transport().device().save(device);
  guest_->transport->state().save(transport);
  guest_->transport->transport().resume();
  ASSERT_TRUE(guest_->alive(1));
  guest_->transport->transport().pause();
  // Back to where it was saved, in the same memory: the guest's sixth request is not done yet.
  auto device_state = StateReader::parse(device.data());
  auto transport_state = StateReader::parse(transport.data());
  ASSERT_TRUE(guest_->transport->transport().device().load(*device_state));
  ASSERT_TRUE(guest_->transport->state().load(*transport_state));
  const uint16_t used = guest_->rings[1].used_index();
  guest_->transport->transport().resume();
  EXPECT_TRUE(guest_->wait_used(1, static_cast<uint16_t>(used + 1))) << "it is done again";
}

TEST_P(VhostCard, ALostBackEndPullsTheCableUntilThereIsOneAgain) {
  make();
  guest_->bring_up();
  ASSERT_TRUE(link_up());
  net_->back_end().end();
  ASSERT_TRUE(wait_link(false));
  ASSERT_TRUE(wait_link(true));
  EXPECT_TRUE(guest_->alive(0));
  EXPECT_TRUE(guest_->alive(1));
  EXPECT_EQ(guest_->transport->status() & virtio::status::kNeedsReset, 0);
}

TEST_P(VhostCard, LayoutsThatMakeNoSenseAreRefusedBeforeTheBackEndHearsOfThem) {
  make();
  for (const uint16_t queue : {uint16_t{0}, uint16_t{1}}) expect_layouts_refused(*guest_, queue);
  EXPECT_FALSE(net_->back_end().was_asked(vhost_user::Request::set_vring_num));
  EXPECT_FALSE(net_->back_end().was_asked(vhost_user::Request::set_vring_addr));
  guest_->bring_up();
  EXPECT_TRUE(guest_->alive(0));
  EXPECT_TRUE(guest_->alive(1));
}

TEST_P(VhostCard, TheBackEndHearsOfAQueueOnlyOnceTheDriverIsReady) {
  make();
  guest_->negotiate();
  guest_->transport->notify(1);
  guest_->set_up_queues();
  guest_->probe_chain(0, 1);
  guest_->rings[1].offer(0);
  guest_->transport->kick(1);
  EXPECT_FALSE(net_->back_end().was_asked(vhost_user::Request::set_vring_addr));
  guest_->drive();
  EXPECT_TRUE(guest_->wait_used(1, 1));
}

TEST_P(VhostCard, AResetEndsWhatTheBackEndHasInHand) {
  make();
  for (int round = 0; round < 10; ++round) {
    const auto queue = static_cast<uint16_t>(round % 2);
    guest_->bring_up();
    guest_->probe_chain(2, queue);
    expect_reset_ends(*guest_, queue, 2);
  }
  guest_->bring_up();
  EXPECT_TRUE(guest_->alive(0));
  EXPECT_TRUE(guest_->alive(1));
}

TEST_P(VhostCard, AnOverwrittenUsedIndexIsHarmless) {
  make();
  for (const uint16_t queue : {uint16_t{0}, uint16_t{1}})
    expect_overwritten_index_is_harmless(*guest_, queue);
}

TEST_P(VhostCard, NotificationsOfQueuesThatDoNotExistAreIgnored) {
  make();
  guest_->bring_up();
  expect_notifications_of_no_queue_ignored(*guest_);
  EXPECT_TRUE(guest_->alive(1));
}

TEST_P(VhostCard, ARingThatTheBackEndCannotMakeSenseOfNeedsAReset) {
  make();
  guest_->bring_up();
  ASSERT_TRUE(guest_->alive(1)) << "by then it has been told all of the ring";
  net_->back_end().signal_error(1);
  EXPECT_TRUE(guest_->wait_needs_reset());
  EXPECT_TRUE(link_up()) << "the cable is not pulled for it";
  guest_->bring_up();
  EXPECT_TRUE(guest_->alive(0));
  EXPECT_TRUE(guest_->alive(1));
}

TEST_P(VhostCard, WhatIsInTheRingsIsForTheBackEnd) {
  leaves_work_ = true;
  make();
  guest_->bring_up();
  for (uint16_t queue = 0; queue < 2; ++queue) {
    FakeRing& ring = guest_->rings[queue];
    ring.descriptor(0, kBuffers, 16, virtio::kDescNext, 0);                  // itself
    ring.descriptor(1, Gpa{~uint64_t{0}}, 0xffff'ffff, virtio::kDescWrite);  // past the address space
    ring.descriptor(2, kBuffers, 17, virtio::kDescIndirect);
    for (const uint16_t head : {uint16_t{0}, uint16_t{1}, uint16_t{2}, uint16_t{0xffff}}) ring.offer(head);
    guest_->transport->kick(queue);
  }
  for (int round = 0; round < 3; ++round) {
    guest_->transport->transport().pause();
    guest_->transport->transport().resume();
    EXPECT_EQ(guest_->transport->status(), FakeGuest::kRunning);
    EXPECT_EQ(guest_->rings[0].used_index() + guest_->rings[1].used_index(), 0);
  }
  guest_->transport->set_status(0);
  EXPECT_EQ(guest_->transport->status(), 0);
}

INSTANTIATE_TEST_SUITE_P(Transports, VhostCard, testing::Values(TransportKind::pci, TransportKind::mmio),
                         [](const auto& test) { return test.param == TransportKind::pci ? "pci" : "mmio"; });

}  // namespace
}  // namespace minivmm::test
