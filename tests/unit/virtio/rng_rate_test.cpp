// The value of --rng, and what a limit does.
#include <gtest/gtest.h>

#include "tests/conformance/fake_guest.h"
#include "tests/unit/virtio/device_spec.h"
#include "virtio/device/rng.h"

namespace minivmm::test {
namespace {

class RngSpec : public DeviceSpec {};

TEST_F(RngSpec, TakesARate) {
  for (const char* spec : {"on", "rate=64k", "rate=1000/s", "on,rate=1M"}) {
    EXPECT_NE(create_virtio_rng(spec, context()), nullptr) << spec;
  }
  for (const char* spec : {"rate=0", "rate=", "rate=fast", "rates=1", "rate=1/h"}) {
    EXPECT_THROW(create_virtio_rng(spec, context()), ConfigError) << spec;
  }
}

class RngRate : public testing::Test {
 protected:
  void start(uint64_t rate) {
    guest_ = std::make_unique<FakeGuest>(
        TransportKind::mmio,
        std::make_unique<VirtioRng>(VirtioRng::Options{.index = 0, .bytes_per_second = rate}), log_);
    guest_->bring_up();
  }
  void ask(unsigned requests, uint32_t bytes) {
    for (uint16_t head = 0; head < requests; ++head) {
      guest_->ring().descriptor(head, kBuffers + uint64_t{head} * 0x1000, bytes, virtio::kDescWrite);
      guest_->ring().offer(head);
    }
    guest_->transport->kick(0);
  }
  Log log_;
  std::unique_ptr<FakeGuest> guest_;
};

TEST_F(RngRate, HoldsAGreedyGuestToIt) {
  start(10'000);
  const auto began = Clock::now();
  ask(4, 4096);  // a tenth of a second's worth each, the first from a full bucket
  ASSERT_TRUE(guest_->wait_used(0, 4));
  EXPECT_GE(Clock::now() - began, std::chrono::milliseconds(290));
  uint32_t bytes = 0;
  for (uint16_t i = 0; i < 4; ++i) bytes += guest_->ring().used(i).len;
  EXPECT_EQ(bytes, 4000U);
}

TEST_F(RngRate, GivesBackWhatWaitsWhenItStops) {
  start(64);
  ask(8, 64);
  ASSERT_TRUE(guest_->wait_used(0, 1));
  const auto began = Clock::now();
  guest_->transport->transport().pause();
  EXPECT_LT(Clock::now() - began, QueueWorker::kStopDeadline);
  EXPECT_LT(guest_->ring().used_index(), 8);
  guest_->transport->transport().resume();
  ASSERT_TRUE(guest_->wait_used(0, 2));
  guest_->transport->set_status(0);
}

}  // namespace
}  // namespace minivmm::test
