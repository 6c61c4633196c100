// vhost-net, where this host has it: with a guest's rings, and without a guest.
#include "virtio/vhost/vhost_net.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "devices/net/net_vhost.h"
#include "devices/net/tap/tap_device.h"
#include "devices/vhost_device.h"
#include "tests/unit/virtio/hostile_chains.h"
#include "tests/unit/virtio/hostile_remote.h"
#include "tests/unit/virtio/vhost_guest.h"
#include "virtio/device/net.h"
#include "virtio/device/net_spec.h"

namespace minivmm::test {
namespace {

TEST(VhostDevice, SaysWhatLoadsTheModuleThatIsMissing) {
  try {
    open_vhost_device("nothing", "--net tap,vhost=on");
    FAIL();
  } catch (const HostError& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("cannot open /dev/vhost-nothing"),
                                             testing::HasSubstr("modprobe vhost_nothing")));
  }
}

// A tap device in a network namespace of this thread's: who looks at it has to be on it.
struct Tap {
  UniqueFd fd;
  std::string name = "t0";
};

// What open_net() makes of --net tap,vhost=on, as far as the card looks at it.
class KernelNet final : public NetBackend, private NetQueue {
 public:
  explicit KernelNet(int tap) { vhost_.pairs.push_back({open_vhost_device("net", "the test"), tap}); }
  NetTraits traits() const override { return {.kind = "tap", .queue_pairs = 1}; }
  NetQueue& queue(uint16_t) override { return *this; }
  NetVhost* vhost() override { return &vhost_; }

 private:
  int fd() const override { return -1; }
  Result<size_t> receive(std::span<const iovec>) override { return 0; }
  Result<bool> send(std::span<const iovec>) override { return true; }

  NetVhost vhost_;
};

class VhostNetTest : public PlaneGuest {
 protected:
  void SetUp() override {
    if (::access("/dev/vhost-net", R_OK | W_OK) != 0 || ::access("/dev/net/tun", R_OK | W_OK) != 0 ||
        ::geteuid() != 0)
      GTEST_SKIP() << "needs root, /dev/vhost-net and /dev/net/tun";
    // Of this thread alone: vhost's own threads have the descriptors.
    if (::unshare(CLONE_NEWNET) != 0) GTEST_SKIP() << "no network namespace may be made here";
    tap_.fd = UniqueFd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    ASSERT_EQ(attach_tap(tap_.fd.get(), tap_.name, false), 0);
    ASSERT_EQ(prepare_tap(tap_.fd.get()), 0);
    std::vector<VhostNet::Pair> pairs;
    pairs.push_back({open_vhost_device("net", "the test"), tap_.fd.get()});
    plane_ = std::make_unique<VhostNet>(std::move(pairs));
    plane_->ack_features(virtio::kFeatureVersion1 | virtio::feature_bit(net::kFeatureMrgRxbuf));
  }
  // NOLINTNEXTLINE(concurrency-mt-unsafe): the test's only thread
  static void run(const char* command) { ASSERT_EQ(std::system(command), 0) << command; }

  Tap tap_;
  std::unique_ptr<VhostNet> plane_;
};

TEST_F(VhostNetTest, OffersTheRingsFeaturesAndMergeableBuffers) {
  const uint64_t wanted = kVhostRingFeatures | virtio::feature_bit(net::kFeatureMrgRxbuf);
  EXPECT_EQ(plane_->features() & wanted, wanted);
}

TEST_F(VhostNetTest, MovesFramesBothWays) {
  ASSERT_TRUE(start(*plane_, 0));
  ASSERT_TRUE(start(*plane_, 1));
  // An interface that comes up looks for its neighbours.
  for (uint16_t head = 0; head < 8; ++head) offer_buffer(0, head, true);
  run("ip link set t0 up");
  const uint64_t seen = signals_.interrupts[0].count();
  if (ring(0).used_index() == 0) {
    EXPECT_TRUE(signals_.interrupts[0].wait_past(seen));
  }
  EXPECT_GT(ring(0).used(0).len, kNetHeaderSize + net::kEthernetHeader);
  offer_buffer(1, 9, false);
  EXPECT_TRUE(wait_used(1, 1));
  EXPECT_EQ(ring(1).used(0).id, 9U);
  EXPECT_TRUE(plane_->stop_queue(0));
  EXPECT_TRUE(plane_->stop_queue(1));
}

TEST_F(VhostNetTest, GivesTheQueueBackWhereItHasCome) {
  run("ip link set t0 up");
  VirtqueuePosition position;
  for (uint16_t i = 0; i < 40; ++i) {
    ASSERT_TRUE(start(*plane_, 1, position));
    offer_buffer(1, static_cast<uint16_t>(i % 8), false);
    ASSERT_TRUE(wait_used(1, static_cast<uint16_t>(i + 1)));
    auto stopped = plane_->stop_queue(1);
    ASSERT_TRUE(stopped);
    position = stopped->position();
    ASSERT_EQ(position.next_avail, i + 1);
    ASSERT_EQ(position.next_used, i + 1);
  }
}

TEST_F(VhostNetTest, GoesOnWhereItsInterfaceIsMadeAnew) {
  ASSERT_TRUE(start(*plane_, 0));
  ASSERT_TRUE(start(*plane_, 1));
  run("ip link set t0 up");
  run("ip link del t0");
  ASSERT_EQ(attach_tap(tap_.fd.get(), tap_.name, false), 0);
  ASSERT_EQ(prepare_tap(tap_.fd.get()), 0);
  plane_->link_is_up();
  for (uint16_t head = 0; head < 8; ++head) offer_buffer(0, head, true);
  const uint64_t seen = signals_.interrupts[0].count();
  const uint16_t before = ring(0).used_index();
  run("ip link set t0 up");
  if (ring(0).used_index() == before) {
    EXPECT_TRUE(signals_.interrupts[0].wait_past(seen));
  }
  offer_buffer(1, 9, false);
  EXPECT_TRUE(wait_used(1, 1));
  EXPECT_TRUE(plane_->stop_queue(0));
  EXPECT_TRUE(plane_->stop_queue(1));
}

TEST_F(VhostNetTest, ARingThatMakesNoSenseNeedsAReset) {
  ASSERT_TRUE(start(*plane_, 1));
  ring(1).offer(kSize);  // there is no such descriptor
  context(1).kick.signal();
  EXPECT_TRUE(signals_.resets.wait_past(0));
  EXPECT_TRUE(plane_->stop_queue(1));
}

TEST_F(VhostNetTest, RequestsThatMakeNoSenseNeedAResetAndNoMore) {
  run("ip link set t0 up");
  for (const HostileRequest& hostile : hostile_requests()) {
    SCOPED_TRACE(hostile.what);
    empty_ring(1);
    const uint64_t before = signals_.resets.count();
    ASSERT_TRUE(start(*plane_, 1));
    hostile.offer(ring(1));
    context(1).kick.signal();
    EXPECT_TRUE(signals_.resets.wait_past(before));
    EXPECT_TRUE(plane_->stop_queue(1));
  }
  empty_ring(1);
  ASSERT_TRUE(start(*plane_, 1));
  offer_buffer(1, 3, false);
  EXPECT_TRUE(wait_used(1, 1));
  EXPECT_TRUE(plane_->stop_queue(1));
}

TEST_F(VhostNetTest, NobodyTouchesAStoppedQueue) {
  run("ip link set t0 up");
  ASSERT_TRUE(start(*plane_, 0));
  ASSERT_TRUE(start(*plane_, 1));
  offer_buffer(1, 9, false);
  ASSERT_TRUE(wait_used(1, 1));
  ASSERT_TRUE(plane_->stop_queue(0));
  ASSERT_TRUE(plane_->stop_queue(1));
  const uint64_t interrupts = signals_.interrupts[0].count() + signals_.interrupts[1].count();
  const uint16_t received = ring(0).used_index();
  for (uint16_t head = 0; head < 8; ++head) offer_buffer(0, head, true);
  offer_buffer(1, 10, false);
  run("ip link set t0 down");
  run("ip link set t0 up");  // it says something to its neighbours
  EXPECT_EQ(ring(0).used_index(), received);
  EXPECT_EQ(ring(1).used_index(), 1);
  EXPECT_EQ(signals_.interrupts[0].count() + signals_.interrupts[1].count(), interrupts);
}

TEST_F(VhostNetTest, ACardsLayoutsAreCheckedBeforeTheKernelGetsThem) {
  plane_.reset();
  run("ip link set t0 up");
  for (const TransportKind kind : {TransportKind::pci, TransportKind::mmio}) {
    SCOPED_TRACE(kind == TransportKind::pci ? "pci" : "mmio");
    auto card =
        std::make_unique<VirtioNet>(std::make_unique<KernelNet>(tap_.fd.get()), VirtioNet::Options{}, log_);
    FakeGuest guest(kind, std::move(card), log_);
    for (const uint16_t queue : {uint16_t{0}, uint16_t{1}}) expect_layouts_refused(guest, queue);
    const auto frame = [&guest] { guest.rings[1].descriptor(6, kBuffers, 64); };
    for (int round = 0; round < 5; ++round) {
      guest.bring_up();
      frame();
      expect_reset_ends(guest, 1, 6);
    }
    guest.bring_up();
    expect_notifications_of_no_queue_ignored(guest);
    frame();
    const auto used = guest.submit(6, 1);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, 6U);
  }
}

}  // namespace
}  // namespace minivmm::test
