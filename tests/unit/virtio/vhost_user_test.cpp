// VhostUser against a back end of the test's: what it tells it, and what it survives of it.
#include "virtio/vhost/vhost_user.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "tests/unit/virtio/vhost_back_end.h"
#include "tests/unit/virtio/vhost_guest.h"

namespace minivmm::test {
namespace {

using vhost_user::Request;
using namespace std::chrono_literals;

class VhostUserTest : public PlaneGuest {
 protected:
  using Manners = FakeBackEnd::Manners;

  VhostUser::Options options() {
    return {.name = "virtio-test.0",
            .queues = 4,
            .changed =
                [this](bool there) {
                  there_ = there;
                  changes_.add();
                },
            .retry_after = 1ms};
  }
  std::unique_ptr<VhostUser> connect(Manners manners, VhostUser::Options options) {
    auto [ours, theirs] = socket_pair();
    back_ends_.add(std::move(theirs), std::move(manners));
    return std::make_unique<VhostUser>(std::move(ours), std::move(options), log_);
  }
  std::unique_ptr<VhostUser> connect(Manners manners = FakeBackEnd::good()) {
    return connect(std::move(manners), options());
  }
  // What is thrown when that is to be used, else "".
  std::string refusal(Manners manners, uint16_t pairs = 1, std::chrono::milliseconds greeting = kDeadline) {
    VhostUser::Options wanted = options();
    wanted.queue_pairs = pairs;
    wanted.greeting = greeting;
    try {
      connect(std::move(manners), std::move(wanted));
      return "";
    } catch (const HostError& error) {
      return error.what();
    }
  }
  // One whose next connections are served by new back ends.
  VhostUser::Options reconnecting(const Manners& next = FakeBackEnd::good()) {
    VhostUser::Options wanted = options();
    wanted.reconnect = [this, next]() -> Result<UniqueFd> {
      attempts_.add();
      if (!open_) return fail(Errc::closed, "nobody listens");
      auto [ours, theirs] = socket_pair();
      back_ends_.add(std::move(theirs), next);
      return std::move(ours);
    };
    return wanted;
  }
  bool wait_change(bool there) {
    for (;;) {
      const uint64_t seen = changes_.count();
      if (seen != 0 && there_ == there) return true;
      if (!changes_.wait_past(seen)) return false;
    }
  }
  static Manners tampering(Request with, std::function<void(FakeBackEnd::Bytes&)> how) {
    Manners manners = FakeBackEnd::good();
    manners.tamper = [with, how = std::move(how)](Request request, FakeBackEnd::Bytes& bytes) {
      if (request == with) how(bytes);
    };
    return manners;
  }
  static void put(FakeBackEnd::Bytes& bytes, size_t offset, uint32_t v) {
    std::memcpy(&bytes.at(offset), &v, sizeof v);
  }

  BackEnds back_ends_;
  std::atomic<bool> there_{true};
  std::atomic<bool> open_{true};
  Counter changes_;
  Counter attempts_;
};

TEST_F(VhostUserTest, OffersWhatTheBackEndKnowsOfVirtio) {
  const auto plane = connect();
  EXPECT_EQ(plane->features(), kVhostRingFeatures);
}

TEST_F(VhostUserTest, CarriesRequestsThereAndInterruptsBack) {
  const auto plane = connect();
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(start(*plane, 0));
  EXPECT_TRUE(signals_.routed(0));
  for (uint16_t i = 0; i < 3 * kSize; ++i) ASSERT_TRUE(serves(0, static_cast<uint16_t>(i % 8 * 2))) << i;
  EXPECT_EQ(answer(), FakeBackEnd::kAnswer);
  EXPECT_EQ(back_ends_->acked_features(), virtio::kFeatureVersion1 | vhost_user::kFeatureProtocol);
  ASSERT_TRUE(plane->stop_queue(0));
  EXPECT_FALSE(signals_.routed(0));
}

TEST_F(VhostUserTest, SeesWhatTheGuestOfferedBeforeTheStart) {
  const auto plane = connect();
  plane->ack_features(virtio::kFeatureVersion1);
  offer(1, 6);
  ASSERT_TRUE(start(*plane, 1));
  EXPECT_TRUE(wait_used(1, 1));
  plane->stop_queue(1);
}

TEST_F(VhostUserTest, AStoppedQueueGoesOnWhereItWas) {
  const auto plane = connect();
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(start(*plane, 0));
  ASSERT_TRUE(serves(0));
  ASSERT_TRUE(serves(0, 4));
  auto stopped = plane->stop_queue(0);
  ASSERT_TRUE(stopped);
  EXPECT_EQ(stopped->position().next_avail, 2);
  EXPECT_EQ(stopped->position().next_used, 2);
  offer(0, 8);
  const VirtqueuePosition position = stopped->position();
  ASSERT_TRUE(start(*plane, 0, position));
  EXPECT_TRUE(wait_used(0, 3));
  EXPECT_EQ(ring(0).used(2).id, 8U);
  plane->stop_queue(0);
}

TEST_F(VhostUserTest, TellsNobodyWhereOurMemoryLies) {
  const auto plane = connect();
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(start(*plane, 0));
  ASSERT_TRUE(serves(0));
  const auto regions = back_ends_->regions();
  ASSERT_EQ(regions.size(), 2U);
  for (const vhost_user::Region& region : regions) EXPECT_EQ(region.user_address, region.guest_address);
  EXPECT_EQ(regions[1].guest_address, value(kHighBase));
  EXPECT_EQ(regions[1].mmap_offset, kLowSize);
  plane->stop_queue(0);
}

TEST_F(VhostUserTest, LooksAtTheQueuesThatAreUsed) {
  const auto plane = connect();
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(plane->use_queues(2));
  for (uint16_t i = 0; i < 4; ++i) ASSERT_TRUE(start(*plane, i));
  ASSERT_TRUE(serves(1));
  offer(2, 0);
  ASSERT_TRUE(plane->use_queues(4));
  EXPECT_TRUE(wait_used(2, 1)) << "what was offered while it was not looked at";
  for (uint16_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(plane->stop_queue(i));
    EXPECT_TRUE(back_ends_->enabled(i));
  }
}

TEST_F(VhostUserTest, GetsAlongWithOneThatKnowsNoProtocolFeatures) {
  Manners manners = FakeBackEnd::good();
  manners.features = virtio::kFeatureVersion1;
  const auto plane = connect(manners);
  EXPECT_EQ(plane->features(), virtio::kFeatureVersion1);
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(start(*plane, 0));
  ASSERT_TRUE(plane->stop_queue(0));  // asks, so all has been heard
  const auto asked = back_ends_->asked();
  EXPECT_EQ(std::ranges::count(asked, Request::set_vring_enable), 0);
  EXPECT_EQ(std::ranges::count(asked, Request::get_protocol_features), 0);
}

TEST_F(VhostUserTest, AnswersMayComeByteByByte) {
  Manners manners = FakeBackEnd::good();
  manners.by_bytes = true;
  const auto plane = connect(manners);
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(start(*plane, 0));
  ASSERT_TRUE(serves(0));
  EXPECT_TRUE(plane->stop_queue(0));
}

TEST_F(VhostUserTest, RefusesOneThatCannotDoWhatIsNeeded) {
  Manners old = FakeBackEnd::good();
  old.features &= ~virtio::kFeatureVersion1;
  EXPECT_THAT(refusal(old), testing::HasSubstr("does not know virtio 1"));
  Manners narrow = FakeBackEnd::good();
  narrow.queues = 1;
  EXPECT_THAT(refusal(narrow, 2), testing::HasSubstr("fewer queues"));
  narrow.protocol_features = 0;
  EXPECT_THAT(refusal(narrow, 2), testing::HasSubstr("one queue pair"));
  EXPECT_EQ(refusal(narrow, 1), "");
}

TEST_F(VhostUserTest, RefusesNonsenseForAGreeting) {
  const auto with = [&](std::function<void(FakeBackEnd::Bytes&)> how,
                        std::chrono::milliseconds greeting = kDeadline) {
    return refusal(tampering(Request::get_features, std::move(how)), 1, greeting);
  };
  const auto is_nonsense = testing::HasSubstr("answers what was not asked");
  EXPECT_THAT(with([](auto& b) { put(b, 0, 99); }), is_nonsense) << "another request";
  EXPECT_THAT(with([](auto& b) { put(b, 4, 1); }), is_nonsense) << "not a reply";
  EXPECT_THAT(with([](auto& b) { put(b, 4, 6); }), is_nonsense) << "another version";
  EXPECT_THAT(with([](auto& b) { put(b, 8, 0xffffffff); }), is_nonsense) << "4 GiB";
  EXPECT_THAT(with([](auto& b) { put(b, 8, 7); }), is_nonsense) << "too short";
  const auto is_silence = testing::HasSubstr("does not answer");
  EXPECT_THAT(with([](auto& b) { b.resize(14); }, 100ms), is_silence) << "half of it";
  EXPECT_THAT(with([](auto& b) { b.clear(); }, 100ms), is_silence) << "nothing";
}

TEST_F(VhostUserTest, AnErrorThatItSignalsNeedsAReset) {
  const auto plane = connect();
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(start(*plane, 0));
  ASSERT_TRUE(serves(0));  // it has heard of everything
  back_ends_->signal_error(0);
  EXPECT_TRUE(signals_.resets.wait_past(0));
  EXPECT_TRUE(plane->stop_queue(0));
}

TEST_F(VhostUserTest, ReadsTheConfigurationThatTheBackEndKeeps) {
  Manners manners = FakeBackEnd::good();
  manners.protocol_features |= vhost_user::kProtocolConfig;
  for (unsigned i = 0; i < 20; ++i) manners.config.push_back(static_cast<std::byte>(i));
  const auto plane = connect(manners);
  std::array<std::byte, 4> part{};
  ASSERT_TRUE(plane->read_config(7, part));
  EXPECT_EQ(part, (std::array{std::byte{7}, std::byte{8}, std::byte{9}, std::byte{10}}));
}

TEST_F(VhostUserTest, GetsAlongWithOneThatDoesNotSayHowItIsConfigured) {
  uint16_t done = 0;
  for (const uint64_t knows : {uint64_t{0}, vhost_user::kProtocolConfig}) {
    Manners manners = FakeBackEnd::good();
    manners.protocol_features |= knows;
    const auto plane = connect(manners);
    std::array<std::byte, 4> part{};
    const auto read = plane->read_config(0, part);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, Errc::unsupported);
    plane->ack_features(virtio::kFeatureVersion1);
    ASSERT_TRUE(start(*plane, 0, {.next_avail = done, .next_used = done, .given_back = {}}));
    EXPECT_TRUE(serves(0)) << "the connection is still good";
    EXPECT_TRUE(plane->stop_queue(0));
    ++done;
  }
}

TEST_F(VhostUserTest, ALieAboutTheConfigurationsSizeEndsTheConnection) {
  Manners manners = tampering(Request::get_config, [](auto& b) { put(b, 8, 4000); });
  manners.protocol_features |= vhost_user::kProtocolConfig;
  manners.config.resize(20);
  const auto plane = connect(manners);
  std::array<std::byte, 4> part{};
  EXPECT_FALSE(plane->read_config(0, part));
  EXPECT_TRUE(wait_change(false));
}

TEST_F(VhostUserTest, NeedsSharedMemory) {
  GuestMemory alone = holed_memory();
  FakeRing ring(alone, kSize, kRingArea);
  auto queue = Virtqueue::create(alone, ring.layout(), {}, {.max_size = kSize, .name = "q"}, log_);
  ASSERT_TRUE(queue);
  const EventFd kick;
  const auto plane = connect();
  plane->ack_features(virtio::kFeatureVersion1);
  const auto started = plane->start_queue(0, std::move(*queue), {0, kick, signals_, alone, log_});
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, Errc::unsupported);
  EXPECT_FALSE(signals_.routed(0));
}

TEST_F(VhostUserTest, NoticesThatTheMemoryCouldNotBeMapped) {
  Manners manners = FakeBackEnd::good();
  manners.memory_error = 1;
  const auto plane = connect(manners);
  plane->ack_features(virtio::kFeatureVersion1);
  EXPECT_FALSE(start(*plane, 0));
}

TEST_F(VhostUserTest, AMuteBackEndCostsNoMoreThanItsPatience) {
  VhostUser::Options wanted = options();
  wanted.patience = 2s;
  const auto plane =
      connect(tampering(Request::get_vring_base, [](auto& b) { b.clear(); }), std::move(wanted));
  plane->ack_features(virtio::kFeatureVersion1);
  for (uint16_t i = 0; i < 4; ++i) ASSERT_TRUE(start(*plane, i));
  ASSERT_TRUE(serves(0));
  const auto before = std::chrono::steady_clock::now();
  auto stopped = plane->stop_queue(0);
  ASSERT_TRUE(stopped);
  EXPECT_EQ(stopped->position().next_avail, 1) << "what is not used will be done again";
  for (uint16_t i = 1; i < 4; ++i) EXPECT_TRUE(plane->stop_queue(i)) << "these do not wait any more";
  EXPECT_LT(std::chrono::steady_clock::now() - before, kDeadline);
  EXPECT_TRUE(wait_change(false));
}

TEST_F(VhostUserTest, SurvivesNonsenseForARingsPlace) {
  const auto survives = [&](std::function<void(FakeBackEnd::Bytes&)> how) {
    const auto plane = connect(tampering(Request::get_vring_base, std::move(how)));
    plane->ack_features(virtio::kFeatureVersion1);
    EXPECT_TRUE(start(*plane, 0));
    const auto stopped = plane->stop_queue(0);
    return stopped && stopped->position().next_avail == 0;
  };
  EXPECT_TRUE(survives([](auto& b) { put(b, 12, 1); })) << "of another ring";
  EXPECT_TRUE(survives([](auto& b) { put(b, 16, 0x10000); })) << "past 16 bits";
  EXPECT_TRUE(survives([](auto& b) { put(b, 8, 16); })) << "longer";
}

TEST_F(VhostUserTest, APlaceThatCannotBeBreaksTheQueueAndNothingElse) {
  const auto plane = connect(tampering(Request::get_vring_base, [](auto& b) { put(b, 16, 999); }));
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(start(*plane, 0));
  auto stopped = plane->stop_queue(0);
  ASSERT_TRUE(stopped);
  EXPECT_EQ(stopped->position().next_avail, 999);
  EXPECT_FALSE(stopped->pop()) << "more requests than the ring holds";
}

TEST_F(VhostUserTest, WhatIsSaidUnaskedSpoilsTheConnectionOnly) {
  const auto plane = connect();
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(start(*plane, 0));
  ASSERT_TRUE(serves(0));
  back_ends_->say_unasked(FakeBackEnd::Bytes(1000, std::byte{0x55}));
  EXPECT_TRUE(plane->stop_queue(0));
  EXPECT_TRUE(wait_change(false));
}

TEST_F(VhostUserTest, ALostBackEndThatDoesNotComeBackNeedsAReset) {
  const auto plane = connect();
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(start(*plane, 0));
  back_ends_->end();
  EXPECT_TRUE(wait_change(false));
  EXPECT_EQ(signals_.resets.count(), 1U);
  EXPECT_TRUE(plane->stop_queue(0));
  EXPECT_FALSE(start(*plane, 0));
  EXPECT_FALSE(plane->use_queues(2));
}

TEST_F(VhostUserTest, ABackEndThatComesBackDoesWhatWasLeft) {
  Manners lazy = FakeBackEnd::good();
  lazy.leaves_work = true;
  open_ = false;
  const auto plane = connect(lazy, reconnecting());
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(plane->use_queues(1));
  ASSERT_TRUE(start(*plane, 0));
  offer(0, 0);
  offer(0, 4);
  back_ends_->end();
  ASSERT_TRUE(wait_change(false));
  ASSERT_TRUE(start(*plane, 1)) << "meanwhile";
  ASSERT_TRUE(attempts_.wait_past(0));
  open_ = true;
  ASSERT_TRUE(wait_change(true));
  EXPECT_TRUE(wait_used(0, 2));
  EXPECT_TRUE(serves(0, 8));
  ASSERT_TRUE(plane->use_queues(2));
  EXPECT_TRUE(serves(1));
  EXPECT_EQ(signals_.resets.count(), 0U);
  EXPECT_TRUE(plane->stop_queue(0));
  EXPECT_TRUE(plane->stop_queue(1));
}

TEST_F(VhostUserTest, ABackEndThatComesBackWithLessIsNotUsed) {
  Manners less = FakeBackEnd::good();
  less.features &= ~virtio::kFeatureEventIdx;
  const auto plane = connect(FakeBackEnd::good(), reconnecting(less));
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(start(*plane, 0));
  back_ends_->end();
  ASSERT_TRUE(wait_change(false));
  for (uint64_t seen = attempts_.count(); seen < 3; seen = attempts_.count())
    ASSERT_TRUE(attempts_.wait_past(seen));
  EXPECT_FALSE(there_);
  EXPECT_TRUE(plane->stop_queue(0)) << "at once, without it";
}

TEST_F(VhostUserTest, ABackEndThatComesBackAndHangsHoldsUpNoQueue) {
  Counter asked;
  Manners mute = tampering(Request::set_mem_table, [&asked](auto& b) {
    b.clear();
    asked.add();
  });
  VhostUser::Options wanted = reconnecting(mute);
  wanted.patience = 2 * kDeadline;
  const auto plane = connect(FakeBackEnd::good(), std::move(wanted));
  plane->ack_features(virtio::kFeatureVersion1);
  ASSERT_TRUE(start(*plane, 0));
  open_ = false;
  back_ends_->end();
  open_ = true;
  ASSERT_TRUE(asked.wait_past(0));
  const auto before = std::chrono::steady_clock::now();
  EXPECT_TRUE(plane->stop_queue(0));
  plane->ack_features(virtio::kFeatureVersion1 | virtio::kFeatureIndirectDesc);
  EXPECT_TRUE(start(*plane, 0)) << "it is started with the others, later";
  EXPECT_TRUE(plane->stop_queue(0));
  EXPECT_LT(std::chrono::steady_clock::now() - before, kDeadline);
  open_ = false;
  back_ends_->end();  // or the end would wait for it
}

TEST_F(VhostUserTest, QueuesStartAndStopWhileTheBackEndComesAndGoes) {
  const auto plane = connect(FakeBackEnd::good(), reconnecting());
  plane->ack_features(virtio::kFeatureVersion1);
  VirtqueuePosition position;
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(start(*plane, 0, position));
    if (i % 5 == 0) {
      EXPECT_TRUE(plane->use_queues(i % 2 == 0 ? 4 : 0));
    }
    if (i % 10 == 3) {
      const uint64_t before = changes_.count();
      back_ends_->end();
      ASSERT_TRUE(changes_.wait_past(before));
      ASSERT_TRUE(wait_change(true));
    }
    auto stopped = plane->stop_queue(0);
    ASSERT_TRUE(stopped);
    position = stopped->position();
  }
}

TEST_F(VhostUserTest, RequestsTakenOutOfOrderAreNotHandedOver) {
  const auto plane = connect();
  plane->ack_features(virtio::kFeatureVersion1);
  ring(0).offer(3);
  ring(0).offer(5);
  EXPECT_FALSE(start(*plane, 0, {.next_avail = 2, .next_used = 0, .given_back = {3}}));
  EXPECT_FALSE(signals_.routed(0));
}

}  // namespace
}  // namespace minivmm::test
