// Transmitting: frames from the guest to the cable, and what must not get there. Facts 8, 11, 20, 21.
#include <chrono>
#include <thread>

#include "tests/unit/virtio/net_fixture.h"
#include "virtio/device/net_offloads.h"
#include "virtio/device/net_tx_hold.h"

namespace minivmm::test {
namespace {

using virtio::kDescNext;
using virtio::kDescWrite;

class NetTxTest : public NetTest {
 protected:
  // The next frame that arrives is this one: whatever came before was dropped.
  void expect_sends(size_t sent_so_far, uint16_t index = 20) {
    const Bytes frame = make_frame(64, {}, 0x40);
    send_frame(frame, index);
    ASSERT_EQ(wire().sent().size(), sent_so_far + 1);
    EXPECT_EQ(frame_of(wire().sent().back()), frame_of(frame));
  }
};

TEST_P(NetTxTest, AFrameArrivesAndItsBufferComesBack) {
  start(plain());
  send_frame(make_frame(300));
  ASSERT_EQ(wire().sent().size(), 1U);
  EXPECT_EQ(wire().sent()[0], make_frame(300));
  EXPECT_EQ(tx().used(0).len, 0U);
  EXPECT_GE(wire().flushes().count(), 1U);
}

TEST_P(NetTxTest, AFrameMayComeInPiecesOfAnySize) {
  start(plain());
  const Bytes frame = make_frame(500);
  ASSERT_TRUE(guest_->memory.write(kBuffers, frame));
  const uint32_t sizes[] = {1, 7, 0, 9, 495};
  uint64_t offset = 0;
  for (uint16_t i = 0; i < std::size(sizes); ++i) {
    const bool last = i + 1U == std::size(sizes);
    tx().descriptor(i, kBuffers + offset, sizes[i], last ? uint16_t{0} : kDescNext,
                    static_cast<uint16_t>(i + 1));
    offset += sizes[i];
  }
  ASSERT_EQ(offset, frame.size());
  ASSERT_TRUE(guest_->submit(0, kTxQueue));
  ASSERT_EQ(wire().sent().size(), 1U);
  EXPECT_EQ(wire().sent()[0], frame);
}

TEST_P(NetTxTest, ManyFramesKeepTheirOrder) {
  start(plain());
  for (unsigned round = 0; round < 5; ++round) {
    const uint16_t before = tx().used_index();
    for (uint16_t i = 0; i < 60; ++i) offer_frame(make_frame(60U + i, {}, static_cast<uint8_t>(round)), i);
    guest_->transport->kick(kTxQueue);
    ASSERT_TRUE(guest_->wait_used(kTxQueue, static_cast<uint16_t>(before + 60)));
  }
  const auto sent = wire().sent();
  ASSERT_EQ(sent.size(), 300U);
  for (size_t i = 0; i < sent.size(); ++i) {
    EXPECT_EQ(sent[i], make_frame(60 + i % 60, {}, static_cast<uint8_t>(i / 60)));
  }
}

TEST_P(NetTxTest, LargeFramesAreShownAsDoneBeforeTheLastIsSent) {
  start(offloading());
  constexpr uint16_t kFrames = 4;
  for (uint16_t i = 0; i < kFrames; ++i) {
    tx().descriptor(i, kHighBase, 40'000);
    tx().offer(i);
  }
  guest_->transport->kick(kTxQueue);
  ASSERT_TRUE(guest_->wait_used(kTxQueue, kFrames));
  EXPECT_EQ(wire().sent().size(), kFrames);
  EXPECT_GE(wire().flushes().count(), 2U);
}

TEST_P(NetTxTest, ADriverThatSleepsHearsOfEveryFrameWithOrWithoutAnAnswer) {
  start(plain());
  constexpr uint16_t kFrames = 2 * NetTxHold::kFirstTry;
  offer_buffers(kFrames / 2, 0x1000);
  for (uint16_t i = 0; i < kFrames; ++i) {
    const uint64_t seen = guest_->transport->queue_interrupts(kTxQueue).count();
    tx().set_used_event(i);  // this frame's end, and it does not look before it is told
    offer_frame(make_frame(64), i % 16);
    guest_->transport->kick(kTxQueue);
    if (i % 2 == 0) wire().give(make_frame(64));
    ASSERT_TRUE(guest_->transport->queue_interrupts(kTxQueue).wait_past(seen)) << i;
    ASSERT_TRUE(guest_->wait_used(kTxQueue, static_cast<uint16_t>(i + 1)));
    if (i % 2 == 0) {
      ASSERT_TRUE(guest_->wait_used(kRxQueue, static_cast<uint16_t>(i / 2 + 1)));
    }
  }
}

TEST_P(NetTxTest, ADriverThatFindsItsFramesByItselfIsNotInterruptedForEach) {
  start(plain());
  constexpr uint16_t kFrames = 10 * NetTxHold::kFirstTry;
  const uint64_t before = guest_->transport->queue_interrupts(kTxQueue).count();
  for (uint16_t i = 0; i < kFrames; ++i) {
    tx().set_used_event(i);  // this frame's end; but it is looked for
    offer_frame(make_frame(64), i % 16);
    guest_->transport->kick(kTxQueue);
    const auto deadline = std::chrono::steady_clock::now() + kDeadline;
    while (tx().used_index() == i && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    ASSERT_EQ(tx().used_index(), i + 1);
  }
  EXPECT_LT(guest_->transport->queue_interrupts(kTxQueue).count() - before, kFrames - NetTxHold::kFirstTry);
}

TEST_P(NetTxTest, FramesTooShortOrTooLongAreDropped) {
  start(offloading());
  const struct {
    uint64_t at;
    uint32_t len;
  } cases[] = {{0, 1}, {0, 11}, {0, 12}, {0, 25}, {0, kMaxFrame + 1}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.len);
    tx().descriptor(0, kHighBase, c.len);
    const auto used = guest_->submit(0, kTxQueue);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->len, 0U);
  }
  expect_sends(0);
}

TEST_P(NetTxTest, ATransmitChainMayNotBeEmptyOfData) {
  start(plain());
  tx().descriptor(0, kHighBase, 2048, kDescWrite);
  ASSERT_TRUE(guest_->submit(0, kTxQueue));
  expect_sends(0);
}

TEST_P(NetTxTest, OffloadsThatWereNotAgreedOnAreDropped) {
  start(plain());
  constexpr uint8_t kCsum = net::kHeaderNeedsCsum;
  uint16_t index = 0;
  for (const net::Header& header :
       {net::Header{.flags = kCsum, .csum_start = 34, .csum_offset = 16},
        net::Header{.gso_type = net::kGsoTcp4, .gso_size = 1000},
        net::Header{.flags = kCsum, .gso_type = net::kGsoUdp, .gso_size = 1000, .csum_start = 34}}) {
    send_frame(make_frame(1000, header), index++);
  }
  expect_sends(0);
}

TEST_P(NetTxTest, MalformedOffloadHeadersAreDropped) {
  start(offloading());
  constexpr uint8_t kCsum = net::kHeaderNeedsCsum;
  constexpr uint8_t kTcp = net::kGsoTcp4;
  uint16_t index = 0;
  for (const net::Header& header : {
           net::Header{.flags = kCsum, .csum_start = 999, .csum_offset = 0},
           net::Header{.flags = kCsum, .csum_start = 0, .csum_offset = 999},
           net::Header{.flags = kCsum, .csum_start = 0xffff, .csum_offset = 0xffff},
           net::Header{.flags = kCsum, .gso_type = 2, .gso_size = 9, .csum_start = 34, .csum_offset = 16},
           net::Header{.flags = kCsum, .gso_type = 0x7f, .gso_size = 9, .csum_start = 34, .csum_offset = 16},
           net::Header{.flags = kCsum, .gso_type = net::kGsoEcn, .gso_size = 9, .csum_start = 34},
           net::Header{
               .flags = kCsum, .gso_type = net::kGsoUdp | net::kGsoEcn, .gso_size = 9, .csum_start = 34},
           net::Header{.flags = kCsum, .gso_type = kTcp, .gso_size = 0, .csum_start = 34, .csum_offset = 16},
           net::Header{.flags = kCsum, .gso_type = kTcp, .hdr_len = 1001, .gso_size = 9, .csum_start = 34},
           net::Header{.flags = kCsum, .gso_type = kTcp, .gso_size = 9, .csum_start = 2, .csum_offset = 16},
           net::Header{.gso_type = kTcp, .gso_size = 1000},
       }) {
    send_frame(make_frame(1000, header), index++);
  }
  expect_sends(0);
}

TEST_P(NetTxTest, GoodOffloadHeadersArriveWithNothingElseInThem) {
  start(offloading());
  const net::Header segments{.flags = net::kHeaderNeedsCsum,
                             .gso_type = net::kGsoTcp6 | net::kGsoEcn,
                             .hdr_len = 74,
                             .gso_size = 1428,
                             .csum_start = 54,
                             .csum_offset = 16};
  net::Header sent = segments;
  sent.flags |= 0xf0;
  sent.num_buffers = 77;
  send_frame(make_frame(3000, sent));
  send_frame(make_frame(100, {.hdr_len = 5, .gso_size = 6, .csum_start = 7, .csum_offset = 8}), 1);
  ASSERT_EQ(wire().sent().size(), 2U);
  EXPECT_EQ(header_of(wire().sent()[0]), segments);
  EXPECT_EQ(header_of(wire().sent()[1]), net::Header{});
}

TEST_P(NetTxTest, AFrameWithoutRoomWaitsAndIsSentOnce) {
  start(plain());
  wire().set_room(false);
  for (uint16_t i = 0; i < 5; ++i) offer_frame(make_frame(60, {}, static_cast<uint8_t>(i)), i);
  guest_->transport->kick(kTxQueue);
  ASSERT_TRUE(wire().refused().wait_past(0));
  EXPECT_EQ(tx().used_index(), 0);
  wire().set_room(true);
  ASSERT_TRUE(guest_->wait_used(kTxQueue, 5));
  const auto sent = wire().sent();
  ASSERT_EQ(sent.size(), 5U);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(sent[i], make_frame(60, {}, static_cast<uint8_t>(i)));
}

TEST_P(NetTxTest, AFrameThatWaitsAtAPauseIsSentAfterIt) {
  start(plain());
  wire().set_room(false);
  for (uint16_t i = 0; i < 3; ++i) offer_frame(make_frame(60, {}, static_cast<uint8_t>(i)), i);
  guest_->transport->kick(kTxQueue);
  ASSERT_TRUE(wire().refused().wait_past(0));
  guest_->transport->transport().pause();
  EXPECT_EQ(tx().used_index(), 0);
  wire().set_room(true);
  guest_->transport->transport().resume();
  ASSERT_TRUE(guest_->wait_used(kTxQueue, 3));
  const auto sent = wire().sent();
  ASSERT_EQ(sent.size(), 3U);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(sent[i], make_frame(60, {}, static_cast<uint8_t>(i)));
}

TEST_P(NetTxTest, FramesToAPulledCableAreLostAndTheirBuffersComeBack) {
  start(plain());
  wire().plug(false);
  for (uint16_t i = 0; i < 10; ++i) send_frame(make_frame(60), i);
  wire().plug(true);
  expect_sends(0);
}

// Fact 8: the header that was checked is the one that is used.
TEST_P(NetTxTest, AHeaderThatChangesAfterItWasCheckedChangesNothing) {
  start(offloading());
  wire().on_send([&] {
    const net::Header bad{.flags = net::kHeaderNeedsCsum, .gso_type = net::kGsoTcp4, .csum_start = 0xffff};
    EXPECT_TRUE(guest_->memory.store(tx_buffer(0), bad));
  });
  send_frame(make_frame(200));
  ASSERT_EQ(wire().sent().size(), 1U);
  EXPECT_EQ(wire().sent()[0], make_frame(200));
}

MV_OVER_BOTH_TRANSPORTS(NetTxTest);

}  // namespace
}  // namespace minivmm::test
