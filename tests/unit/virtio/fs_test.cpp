// The file system device over both transports, with a back end of the test's; and what --share says.
#include "virtio/device/fs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <fstream>

#include "tests/conformance/fake_guest.h"
#include "tests/unit/virtio/hostile_remote.h"
#include "tests/unit/virtio/vhost_back_end.h"
#include "vmm/core/state.h"

namespace minivmm::test {
namespace {

class Fs : public testing::TestWithParam<TransportKind> {
 protected:
  std::unique_ptr<VirtioFs> make_device(FakeBackEnd::Manners manners = FakeBackEnd::good()) {
    auto [ours, theirs] = socket_pair();
    back_end_ = std::make_unique<FakeBackEnd>(std::move(theirs), std::move(manners));
    return std::make_unique<VirtioFs>(
        std::move(ours), VirtioFs::Options{.index = 0, .tag = "work", .lost = [this] { lost_.add(); }}, log_);
  }
  std::unique_ptr<FakeGuest> make_guest(FakeBackEnd::Manners manners = FakeBackEnd::good()) {
    return std::make_unique<FakeGuest>(GetParam(), make_device(std::move(manners)), log_, true);
  }

  Log log_;
  Counter lost_;
  std::unique_ptr<FakeBackEnd> back_end_;
};

TEST_P(Fs, SaysItsTagAndItsRequestQueues) {
  const auto guest = make_guest();
  std::array<std::byte, 40> config{};
  guest->transport->read_config(0, config);
  EXPECT_STREQ(reinterpret_cast<const char*>(config.data()), "work");
  EXPECT_EQ(load_le(std::span(config).last(4)), 1U);
  EXPECT_EQ(guest->sizes.size(), 2U);
}

TEST_P(Fs, RequestsGoThereAndInterruptsComeBack) {
  const auto guest = make_guest();
  guest->bring_up();
  EXPECT_TRUE(guest->alive(0));
  EXPECT_TRUE(guest->alive(1));
  EXPECT_EQ(*guest->memory.load<std::byte>(kBuffers + 0x1000), FakeBackEnd::kAnswer);
}

TEST_P(Fs, OffersNoMoreThanTheServerKnows) {
  FakeBackEnd::Manners manners = FakeBackEnd::good();
  manners.features = virtio::kFeatureVersion1 | vhost_user::kFeatureProtocol;
  const auto guest = make_guest(manners);
  EXPECT_EQ(guest->offered(), virtio::kFeatureVersion1 | virtio::kFeatureRingReset);
  guest->bring_up();
  EXPECT_TRUE(guest->alive(1));
}

TEST_P(Fs, GoesOnAfterPauseResetAndQueueReset) {
  const auto guest = make_guest();
  guest->bring_up();
  for (int i = 0; i < 20; ++i) {
    guest->transport->transport().pause();
    guest->transport->transport().resume();
    ASSERT_TRUE(guest->alive(1));
  }
  guest->bring_up();
  ASSERT_TRUE(guest->alive(1));
  guest->transport->select_queue(1);
  guest->transport->reset_queue();
  guest->set_up_queue_again(1);
  EXPECT_TRUE(guest->alive(1));
}

TEST_P(Fs, AServerThatDiesNeedsAResetAndNoMore) {
  const auto guest = make_guest();
  guest->bring_up();
  back_end_->end();
  EXPECT_TRUE(guest->wait_needs_reset());
  EXPECT_TRUE(lost_.wait_past(0));
  guest->negotiate();
  guest->set_up_queues();
  guest->drive();
  EXPECT_TRUE(guest->wait_needs_reset()) << "and again, for it does not come back";
}

TEST_P(Fs, AMachineThatUsesAShareIsNotLoaded) {
  const auto fresh = make_device();
  StateWriter unused;
  fresh->save(unused);
  const auto guest = make_guest();
  guest->bring_up();
  StateWriter used;
  guest->transport->transport().pause();
  guest->transport->transport().device().save(used);
  const auto load = [&](const StateWriter& state) {
    auto device = make_device();
    auto reader = StateReader::parse(state.data());
    return device->load(*reader);
  };
  EXPECT_TRUE(load(unused));
  const auto refused = load(used);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::unsupported);
}

TEST(FsPatience, AServerWithMuchInHandIsNotGivenUpSoon) {
  EXPECT_GE(VirtioFs::Options{}.patience, std::chrono::minutes(1));
  EXPECT_GT(VirtioFs::Options{}.patience, vhost_user::Session::kPatience);
}

TEST_P(Fs, LayoutsThatMakeNoSenseAreRefusedBeforeTheServerHearsOfThem) {
  const auto guest = make_guest();
  for (const uint16_t queue : {uint16_t{0}, uint16_t{1}}) expect_layouts_refused(*guest, queue);
  EXPECT_FALSE(back_end_->was_asked(vhost_user::Request::set_vring_num));
  EXPECT_FALSE(back_end_->was_asked(vhost_user::Request::set_vring_addr));
  guest->bring_up();
  EXPECT_TRUE(guest->alive(0));
  EXPECT_TRUE(guest->alive(1));
}

TEST_P(Fs, TheServerHearsOfAQueueOnlyOnceTheDriverIsReady) {
  const auto guest = make_guest();
  guest->negotiate();
  guest->transport->notify(1);
  guest->set_up_queues();
  guest->probe_chain(0, 1);
  guest->rings[1].offer(0);
  guest->transport->kick(1);
  guest->transport->notify(1);
  EXPECT_FALSE(back_end_->was_asked(vhost_user::Request::set_vring_addr));
  EXPECT_EQ(guest->rings[1].used_index(), 0);
  guest->drive();
  EXPECT_TRUE(guest->wait_used(1, 1)) << "what was offered before counts";
}

TEST_P(Fs, AResetEndsWhatTheServerHasInHand) {
  const auto guest = make_guest();
  for (int round = 0; round < 10; ++round) {
    guest->bring_up();
    guest->probe_chain(2, 1);
    expect_reset_ends(*guest, 1, 2);
  }
  guest->bring_up();
  EXPECT_TRUE(guest->alive(1));
}

TEST_P(Fs, AnOverwrittenUsedIndexIsHarmless) {
  const auto guest = make_guest();
  expect_overwritten_index_is_harmless(*guest, 1);
}

TEST_P(Fs, NotificationsOfQueuesThatDoNotExistAreIgnored) {
  const auto guest = make_guest();
  guest->bring_up();
  expect_notifications_of_no_queue_ignored(*guest);
  EXPECT_TRUE(guest->alive(1));
}

TEST_P(Fs, ARingThatTheServerCannotMakeSenseOfNeedsAReset) {
  const auto guest = make_guest();
  guest->bring_up();
  ASSERT_TRUE(guest->alive(1)) << "by then it has been told all of the ring";
  back_end_->signal_error(1);
  EXPECT_TRUE(guest->wait_needs_reset());
  guest->bring_up();
  EXPECT_TRUE(guest->alive(1));
}

INSTANTIATE_TEST_SUITE_P(Transports, Fs, testing::Values(TransportKind::pci, TransportKind::mmio),
                         [](const auto& test) { return test.param == TransportKind::pci ? "pci" : "mmio"; });

TEST(ShareSpec, IsAFolderAndATag) {
  const auto is = [](std::string_view text, const char* folder, const char* tag, bool read_only) {
    const ShareSpec share = parse_share_spec(text);
    return share.folder == folder && share.tag == tag && share.read_only == read_only;
  };
  EXPECT_TRUE(is("/srv:data", "/srv", "data", false));
  EXPECT_TRUE(is("/srv:data:ro", "/srv", "data", true));
  EXPECT_TRUE(is("/srv:data:rw", "/srv", "data", false));
  EXPECT_TRUE(is("a:b:c", "a:b", "c", false)) << "a folder with a colon";
  EXPECT_TRUE(is("a:ro", "a", "ro", false));
  EXPECT_TRUE(is("a:ro:ro", "a", "ro", true));
}

TEST(ShareSpec, SaysWhatIsWrong) {
  for (const char* text : {"", "/srv", ":tag", "/srv:", "/srv::ro", "/srv:tag\n"})
    EXPECT_THROW(parse_share_spec(text), ConfigError) << text;
  EXPECT_THROW(parse_share_spec("/srv:" + std::string(37, 'x')), ConfigError);
  EXPECT_NO_THROW(parse_share_spec("/srv:" + std::string(36, 'x')));
}

}  // namespace
}  // namespace minivmm::test
