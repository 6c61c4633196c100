// Receiving: frames from the cable into the guest's buffers, and what must not get there. Facts 11, 19, 20.
#include "tests/unit/virtio/net_fixture.h"

namespace minivmm::test {
namespace {

using virtio::kDescNext;
using virtio::kDescWrite;

class NetRxTest : public NetTest {
 protected:
  // A good frame still gets through, in the oldest buffer that is there.
  void expect_receives(uint16_t used_so_far) {
    const Bytes frame = make_frame(64, {}, 0x40);
    wire().give(frame);
    ASSERT_TRUE(guest_->wait_used(kRxQueue, static_cast<uint16_t>(used_so_far + 1)));
    uint16_t at = used_so_far;
    EXPECT_EQ(frame_of(received(at)), frame_of(frame));
  }
};

TEST_P(NetRxTest, AFrameArrivesBehindItsHeader) {
  start(plain());
  offer_buffers(1, 2048);
  wire().give(make_frame(100));
  ASSERT_TRUE(guest_->wait_used(kRxQueue, 1));
  uint16_t at = 0;
  const Bytes got = received(at);
  EXPECT_EQ(frame_of(got), frame_of(make_frame(100)));
  EXPECT_EQ(header_of(got), (net::Header{.num_buffers = 1}));
}

TEST_P(NetRxTest, AFrameTakesAsManyBuffersAsItNeeds) {
  start(plain());
  offer_buffers(4, 1000);
  wire().give(make_frame(2500));
  ASSERT_TRUE(guest_->wait_used(kRxQueue, 3));
  EXPECT_EQ(rx().used(0).len, 1000U);
  EXPECT_EQ(rx().used(1).len, 1000U);
  EXPECT_EQ(rx().used(2).len, 512U);
  uint16_t at = 0;
  EXPECT_EQ(frame_of(received(at)), frame_of(make_frame(2500)));
  EXPECT_EQ(at, 3);
}

TEST_P(NetRxTest, FramesFillTheBuffersInOrder) {
  start(plain());
  offer_buffers(40, 600);
  for (uint8_t i = 0; i < 20; ++i) wire().give(make_frame(100U + 50U * i, {}, i));
  size_t buffers = 0;
  for (size_t i = 0; i < 20; ++i) buffers += (kNetHeaderSize + 100 + 50 * i + 599) / 600;
  ASSERT_TRUE(guest_->wait_used(kRxQueue, static_cast<uint16_t>(buffers)));
  uint16_t at = 0;
  for (uint8_t i = 0; i < 20; ++i)
    EXPECT_EQ(frame_of(received(at)), frame_of(make_frame(100U + 50U * i, {}, i)));
}

TEST_P(NetRxTest, FramesWaitForBuffersAndThenComeAll) {
  start(plain());
  for (uint8_t i = 0; i < 50; ++i) wire().give(make_frame(60, {}, i));
  offer_buffers(10, 2048);
  ASSERT_TRUE(guest_->wait_used(kRxQueue, 10));
  offer_buffers(40, 2048, 10);
  ASSERT_TRUE(guest_->wait_used(kRxQueue, 50));
  uint16_t at = 0;
  for (uint8_t i = 0; i < 50; ++i) EXPECT_EQ(frame_of(received(at)), frame_of(make_frame(60, {}, i)));
}

TEST_P(NetRxTest, AFrameThatNeedsMoreBuffersThanThereAreWaitsForThem) {
  start(offloading());
  offer_buffers(1, 1000);
  wire().give(make_frame(30'000));
  ASSERT_TRUE(wire().wait_taken(1));
  offer_buffers(5, 1000, 1);
  offer_buffers(40, 1000, 6);
  ASSERT_TRUE(guest_->wait_used(kRxQueue, 31));
  uint16_t at = 0;
  const Bytes got = received(at);
  EXPECT_EQ(header_of(got).num_buffers, 31);
  EXPECT_EQ(frame_of(got), frame_of(make_frame(30'000)));
  expect_receives(31);
}

TEST_P(NetRxTest, TheLargestFrameFits) {
  start(offloading());
  offer_buffers(64, 1100);
  wire().give(make_frame(kMaxFrame - kNetHeaderSize));
  const uint16_t buffers = (kMaxFrame + 1099) / 1100;
  ASSERT_TRUE(guest_->wait_used(kRxQueue, buffers));
  uint16_t at = 0;
  EXPECT_EQ(frame_of(received(at)), frame_of(make_frame(kMaxFrame - kNetHeaderSize)));
}

TEST_P(NetRxTest, AFrameThatTheWholeRingDoesNotHoldIsLost) {
  start(plain());
  offer_buffers(64, 100);
  wire().give(make_frame(7000));
  ASSERT_TRUE(wire().wait_taken(1));
  expect_receives(0);
}

TEST_P(NetRxTest, WithoutMergingAFrameLargerThanItsBufferIsLost) {
  start(plain(), without({net::kFeatureMrgRxbuf}));
  offer_buffers(3, 500);
  wire().give(make_frame(600));
  ASSERT_TRUE(wire().wait_taken(1));
  expect_receives(0);
  expect_receives(1);
}

TEST_P(NetRxTest, ABufferMayComeInPiecesOfAnySize) {
  start(plain());
  const Gpa at = buffer(0);
  const uint32_t sizes[] = {5, 0, 8, 1, 600};
  uint64_t offset = 0;
  for (uint16_t i = 0; i < std::size(sizes); ++i) {
    const bool last = i + 1U == std::size(sizes);
    rx().descriptor(i, at + offset, sizes[i], static_cast<uint16_t>(kDescWrite | (last ? 0 : kDescNext)),
                    static_cast<uint16_t>(i + 1));
    offset += sizes[i];
  }
  rx().offer(0);
  guest_->transport->kick(kRxQueue);
  wire().give(make_frame(200));
  ASSERT_TRUE(guest_->wait_used(kRxQueue, 1));
  uint16_t entry = 0;
  EXPECT_EQ(frame_of(received(entry)), frame_of(make_frame(200)));
}

TEST_P(NetRxTest, AnIndirectBufferWorks) {
  start(plain());
  rx().descriptor_at(kBuffers, buffer(0), 64, kDescWrite | kDescNext, 1);
  rx().descriptor_at(kBuffers + 16, buffer(0) + 64, 1000, kDescWrite);
  rx().descriptor(0, kBuffers, 32, virtio::kDescIndirect);
  rx().offer(0);
  guest_->transport->kick(kRxQueue);
  wire().give(make_frame(700));
  ASSERT_TRUE(guest_->wait_used(kRxQueue, 1));
  uint16_t at = 0;
  EXPECT_EQ(frame_of(received(at)), frame_of(make_frame(700)));
}

TEST_P(NetRxTest, BuffersOfNoUseComeBackEmpty) {
  start(plain());
  rx().descriptor(0, buffer(0), 11, kDescWrite);    // no room for the header
  rx().descriptor(1, buffer(1), 2048);              // readable
  rx().descriptor(2, buffer(2), 16, kDescNext, 3);  // readable and writable
  rx().descriptor(3, buffer(3), 2048, kDescWrite);
  for (uint16_t head = 0; head < 3; ++head) rx().offer(head);
  guest_->transport->kick(kRxQueue);
  ASSERT_TRUE(guest_->wait_used(kRxQueue, 3));
  for (uint16_t i = 0; i < 3; ++i) EXPECT_EQ(rx().used(i).len, 0U);
  offer_buffers(1, 2048, 8);
  expect_receives(3);
}

TEST_P(NetRxTest, WhatTheBackEndMayNotAskOfTheGuestDoesNotReachIt) {
  start(plain());
  offer_buffers(2, 4096);
  for (const net::Header& header :
       {net::Header{.flags = net::kHeaderNeedsCsum, .csum_start = 34, .csum_offset = 16},
        net::Header{.gso_type = net::kGsoTcp4, .gso_size = 1000},
        net::Header{
            .flags = net::kHeaderNeedsCsum, .gso_type = net::kGsoTcp4, .gso_size = 1000, .csum_start = 34}}) {
    wire().give(make_frame(1000, header));
  }
  wire().give(make_frame(13));  // shorter than an Ethernet header
  wire().give(Bytes(5));
  expect_receives(0);
}

TEST_P(NetRxTest, MalformedOffloadHeadersOfTheBackEndDoNotReachTheGuest) {
  start(offloading());
  offer_buffers(40, 4096);
  constexpr uint8_t kCsum = net::kHeaderNeedsCsum;
  for (const net::Header& header :
       {net::Header{.flags = kCsum, .csum_start = 999, .csum_offset = 0},
        net::Header{.flags = kCsum, .csum_start = 0xffff, .csum_offset = 0xffff},
        net::Header{.flags = kCsum, .gso_type = 9, .gso_size = 1000, .csum_start = 34, .csum_offset = 16},
        net::Header{
            .flags = kCsum, .gso_type = net::kGsoTcp4, .gso_size = 0, .csum_start = 34, .csum_offset = 16},
        net::Header{.gso_type = net::kGsoTcp6, .gso_size = 100}}) {
    wire().give(make_frame(1000, header));
  }
  expect_receives(0);
}

TEST_P(NetRxTest, OffloadsThatWereAgreedOnReachTheGuest) {
  start(offloading());
  EXPECT_EQ(net_->allowed(), kAllOffloads);
  offer_buffers(40, 4096);
  const net::Header header{.flags = net::kHeaderNeedsCsum,
                           .gso_type = net::kGsoTcp4 | net::kGsoEcn,
                           .hdr_len = 54,
                           .gso_size = 1448,
                           .csum_start = 34,
                           .csum_offset = 16,
                           .num_buffers = 999};
  wire().give(make_frame(20'000, header));
  ASSERT_TRUE(guest_->wait_used(kRxQueue, 5));
  uint16_t at = 0;
  net::Header expected = header;
  expected.num_buffers = 5;
  EXPECT_EQ(header_of(received(at)), expected);
}

TEST_P(NetRxTest, BuffersHeldAtAPauseAreUsedInTheirOrderAfterwards) {
  start(plain());
  offer_buffers(6, 2048);
  expect_receives(0);
  guest_->transport->transport().pause();
  wire().give(make_frame(80, {}, 7));
  guest_->transport->transport().resume();
  ASSERT_TRUE(guest_->wait_used(kRxQueue, 2));
  EXPECT_EQ(rx().used(1).id, 1U);
  expect_receives(2);
  EXPECT_EQ(rx().used(2).id, 2U);
}

TEST_P(NetRxTest, AnUnpluggedCableIsQuietAndAPluggedOneGoesOn) {
  start(plain());
  offer_buffers(4, 2048);
  expect_receives(0);
  wire().plug(false);
  wire().give(make_frame(60));
  guest_->transport->transport().pause();  // the worker has looked
  EXPECT_EQ(rx().used_index(), 1);
  guest_->transport->transport().resume();
  wire().plug(true);
  ASSERT_TRUE(guest_->wait_used(kRxQueue, 2));
  expect_receives(2);
}

TEST_P(NetRxTest, ABrokenRingNeedsAResetAndWorksAfterIt) {
  start(plain());
  offer_buffers(4, 2048);
  rx().set_avail_index(static_cast<uint16_t>(rx().avail_index() + 1000));
  guest_->transport->kick(kRxQueue);
  ASSERT_TRUE(guest_->wait_needs_reset());
  guest_->bring_up();
  offer_buffers(4, 2048);
  expect_receives(0);
}

MV_OVER_BOTH_TRANSPORTS(NetRxTest);

// Without the worker's thread.
TEST(NetRx, ABackEndThatOnlyFailsIsLeftAloneUntilItsDescriptorSaysSomething) {
  class : public VirtioSignals {
    void used(uint16_t) override {}
    void config_changed() override {}
    void needs_reset() override {}
    Result<void> set_calls(uint16_t, const QueueCalls*) override { return {}; }
  } signals;
  GuestMemory memory = holed_memory();
  Log log;
  FakeRing ring(memory, 16, kRingArea);
  auto queue = Virtqueue::create(memory, ring.layout(), {}, {.max_size = 16, .name = "test"}, log);
  ASSERT_TRUE(queue);
  FakeWire wire;
  const NetSettingsBoard board;
  const EventFd kick;
  const StopFlag stop;
  NetRx rx(wire, board, {.mergeable = true, .name = "test"}, std::move(*queue),
           {0, kick, signals, memory, log});
  ring.descriptor(0, kBuffers, 2048, kDescWrite);
  ring.offer(0);
  wire.fail_receives(true);
  EXPECT_FALSE(*rx.drain(stop));
  EXPECT_GT(wire.failures().count(), 1U);  // one alone is a lost frame
  EXPECT_FALSE(rx.can_receive());
  wire.fail_receives(false);
  wire.give(make_frame(64));
  EXPECT_FALSE(*rx.drain(stop));
  EXPECT_EQ(rx.queue().in_flight(), 0U);
  rx.settle();
}

}  // namespace
}  // namespace minivmm::test
