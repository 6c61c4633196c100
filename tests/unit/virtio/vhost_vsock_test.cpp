// vhost-vsock, where this host has it: with a guest's rings, and without a guest.
#include "virtio/vhost/vhost_vsock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "devices/vhost_device.h"
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

}  // namespace
}  // namespace minivmm::test
