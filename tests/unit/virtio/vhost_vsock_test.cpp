// vhost-vsock, where this host has it: with a guest's rings, and without a guest.
#include "virtio/vhost/vhost_vsock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "devices/vhost_device.h"
#include "tests/unit/virtio/hostile_chains.h"
#include "tests/unit/virtio/hostile_remote.h"
#include "tests/unit/virtio/vhost_guest.h"
#include "virtio/device/vsock_vhost.h"
#include "vmm/core/state.h"

namespace minivmm::test {
namespace {

class VhostVsockTest : public PlaneGuest {
 protected:
  void SetUp() override {
    if (::access("/dev/vhost-vsock", R_OK | W_OK) != 0) GTEST_SKIP() << "needs /dev/vhost-vsock";
  }
  VirtioVhostVsock::Options with_cid(std::optional<uint64_t> cid) { return {.index = 0, .cid = cid}; }
  std::unique_ptr<VirtioVhostVsock> make(std::optional<uint64_t> cid) {
    return std::make_unique<VirtioVhostVsock>(open_vhost_device("vsock", "the test"), with_cid(cid), log_);
  }
};

TEST_F(VhostVsockTest, AnAddressIsOneGuestsOnly) {
  const auto first = make(std::nullopt);
  const auto second = make(std::nullopt);
  EXPECT_NE(first->cid(), second->cid());
  EXPECT_THROW(make(first->cid()), HostError);
  EXPECT_THROW(make(2), HostError) << "that is the host's";
}

TEST_F(VhostVsockTest, GivesItsQueuesBackWhereTheyHaveCome) {
  VhostVsock plane(open_vhost_device("vsock", "the test"));
  ASSERT_TRUE(plane.set_guest_cid(0x7fff1234).value());
  plane.ack_features(virtio::kFeatureVersion1);
  // A packet that makes no sense is used, and no more.
  for (uint16_t i = 0; i < 10; ++i) {
    ASSERT_TRUE(start(plane, 0, {.next_avail = 0, .next_used = 0, .given_back = {}}));
    ASSERT_TRUE(start(plane, 1, {.next_avail = i, .next_used = i, .given_back = {}}));
    offer_buffer(1, static_cast<uint16_t>(i % 8), false);
    ASSERT_TRUE(wait_used(1, static_cast<uint16_t>(i + 1)));
    EXPECT_TRUE(plane.stop_queue(0));
    auto stopped = plane.stop_queue(1);
    ASSERT_TRUE(stopped);
    EXPECT_EQ(stopped->position().next_avail, i + 1);
  }
}

TEST_F(VhostVsockTest, KeepsItsAddressWhereItIsLoaded) {
  StateWriter state;
  uint64_t cid = 0;
  {
    const auto saved = make(0x7fff4321);
    cid = saved->cid();
    saved->save(state);
  }
  const auto loaded = make(std::nullopt);
  auto reader = StateReader::parse(state.data());
  ASSERT_TRUE(loaded->load(*reader));
  EXPECT_EQ(loaded->cid(), cid);
  const auto elsewhere = make(0x7fff4322);
  auto again = StateReader::parse(state.data());
  ASSERT_TRUE(elsewhere->load(*again));
  EXPECT_EQ(elsewhere->cid(), 0x7fff4322U) << "the user has chosen it";
}

TEST_F(VhostVsockTest, RequestsThatMakeNoSenseNeedAResetAndNoMore) {
  VhostVsock plane(open_vhost_device("vsock", "the test"));
  ASSERT_TRUE(plane.set_guest_cid(0x7fff1235).value());
  plane.ack_features(virtio::kFeatureVersion1);
  const auto start_both = [&] {
    empty_ring(0);
    empty_ring(1);
    ASSERT_TRUE(start(plane, 0));
    ASSERT_TRUE(start(plane, 1));
  };
  const auto stop_both = [&] {
    EXPECT_TRUE(plane.stop_queue(0));
    EXPECT_TRUE(plane.stop_queue(1));
  };
  for (const HostileRequest& hostile : hostile_requests()) {
    SCOPED_TRACE(hostile.what);
    const uint64_t before = signals_.resets.count();
    start_both();
    hostile.offer(ring(1));
    context(1).kick.signal();
    EXPECT_TRUE(signals_.resets.wait_past(before));
    stop_both();
  }
  start_both();
  offer_buffer(1, 3, false);
  EXPECT_TRUE(wait_used(1, 1));
  stop_both();
}

TEST_F(VhostVsockTest, LayoutsAreCheckedBeforeTheKernelGetsThem) {
  for (const TransportKind kind : {TransportKind::pci, TransportKind::mmio}) {
    SCOPED_TRACE(kind == TransportKind::pci ? "pci" : "mmio");
    FakeGuest guest(kind, make(std::nullopt), log_);
    for (uint16_t queue = 0; queue < 3; ++queue) expect_layouts_refused(guest, queue);
    // A packet that makes no sense is used, and no more.
    const auto packet = [&guest] {
      EXPECT_TRUE(guest.memory.fill(kBuffers, 64, std::byte{0}));
      guest.rings[1].descriptor(6, kBuffers, 64);
    };
    for (int round = 0; round < 5; ++round) {
      guest.bring_up();
      packet();
      expect_reset_ends(guest, 1, 6);
    }
    guest.bring_up();
    expect_notifications_of_no_queue_ignored(guest);
    packet();
    const auto used = guest.submit(6, 1);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, 6U);
  }
}

}  // namespace
}  // namespace minivmm::test
