// The block device on a back end whose requests end when the test says: fact 15, and flushes.
#include <gtest/gtest.h>

#include <deque>
#include <future>
#include <thread>

#include "tests/conformance/fake_guest.h"
#include "virtio/device/blk.h"
#include "virtio/device/blk_request.h"

namespace minivmm::test {
namespace {

using virtio::kDescNext;
using virtio::kDescWrite;

// Holds requests until finish(), or until they are given up.
class HeldDisk final : public BlockBackend {
 public:
  uint64_t capacity() const override { return 1 << 20; }
  bool read_only() const override { return false; }
  BlockGeometry geometry() const override { return {}; }
  std::string_view format() const override { return "held"; }
  Task<Result<void>> run(IoEngine& engine, BlockRequest request) override {
    co_return co_await Held(*this, engine, request);
  }
  Task<Result<BlockExtent>> extent(IoEngine&, uint64_t, uint64_t length) override {
    co_return BlockExtent{.length = length};
  }
  Task<Result<void>> resize(IoEngine&, uint64_t) override { co_return Result<void>{}; }
  Task<Result<void>> close(IoEngine&) override { co_return Result<void>{}; }
  // Ends the oldest request from the calling thread.
  void finish(Result<void> result = {}) {
    Held& held = take();
    if (result && held.request.op == BlockOp::read) {
      for (const iovec& piece : held.request.data) std::memset(piece.iov_base, 'r', piece.iov_len);
    }
    held.end(result);
  }
  // Ends the oldest request as a back end must once it is to be given up.
  void wait_until_given_up() {
    Held& held = take();
    while (!held.request.stop->give_up()) std::this_thread::yield();
    held.end(fail(Errc::closed, "stopped"));
  }
  BlockOp oldest() { return requests().front().op; }
  std::vector<BlockRequest> requests() {
    const std::scoped_lock lock(mutex_);
    std::vector<BlockRequest> all;
    for (const Held* held : held_) all.push_back(held->request);
    return all;
  }

  Counter submitted;

 private:
  struct Held : IoPosted {
    Held(HeldDisk& disk, IoEngine& io, const BlockRequest& what) : owner(disk), engine(io), request(what) {}
    HeldDisk& owner;
    IoEngine& engine;
    BlockRequest request;
    Result<void> result;
    std::coroutine_handle<> waiter;

    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      waiter = handle;
      run = [](IoPosted& self) { static_cast<Held&>(self).waiter.resume(); };
      const std::scoped_lock lock(owner.mutex_);
      owner.held_.push_back(this);
      owner.submitted.add();
    }
    Result<void> await_resume() const { return result; }
    void end(Result<void> how) {
      result = how;
      engine.post(*this);
    }
  };
  Held& take() {
    const std::scoped_lock lock(mutex_);
    MV_CHECK(!held_.empty());
    Held& held = *held_.front();
    held_.pop_front();
    return held;
  }
  std::mutex mutex_;
  std::deque<Held*> held_;
};

class BlkAsync : public testing::Test {
 protected:
  BlkAsync() {
    auto disk = std::make_unique<HeldDisk>();
    disk_ = disk.get();
    guest_ = std::make_unique<FakeGuest>(
        TransportKind::mmio, std::make_unique<VirtioBlk>(std::move(disk), VirtioBlk::Options{.serial = "s"}),
        log_);
  }
  // A request with header, one sector of data and status, in descriptors from `head` on.
  void prepare(uint16_t head, uint32_t type, uint64_t sector = 0) {
    const Gpa base = kBuffers + uint64_t{0x1000} * head;
    ASSERT_TRUE(guest_->memory.store(base, blk::Header{type, 0, sector}));
    ASSERT_TRUE(guest_->memory.fill(base + 0x100, 513, std::byte{0xee}));
    const bool in = type == blk::kTypeIn;
    FakeRing& ring = guest_->rings[0];
    ring.descriptor(head, base, 16, kDescNext,
                    static_cast<uint16_t>(head + (type == blk::kTypeFlush ? 2 : 1)));
    ring.descriptor(static_cast<uint16_t>(head + 1), base + 0x100, 512,
                    static_cast<uint16_t>(kDescNext | (in ? kDescWrite : 0)),
                    static_cast<uint16_t>(head + 2));
    ring.descriptor(static_cast<uint16_t>(head + 2), base + 0x300, 1, kDescWrite);
  }
  void offer(uint16_t head, uint32_t type) {
    prepare(head, type);
    const uint64_t seen = disk_->submitted.count();
    guest_->rings[0].offer(head);
    guest_->transport->kick(0);
    ASSERT_TRUE(disk_->submitted.wait_past(seen));
  }
  // Brings the device up with these requests in its ring, one `step` sectors after the other, and waits for
  // so many to reach the disk.
  void start_with(const std::vector<uint32_t>& types, uint64_t step, uint64_t arrive, uint64_t without = 0) {
    guest_->negotiate(without);
    guest_->set_up_queues();
    for (size_t i = 0; i < types.size(); ++i) {
      const auto head = static_cast<uint16_t>(4 * i);
      prepare(head, types[i], step * i);
      guest_->rings[0].offer(head);
    }
    guest_->drive();
    wait_submitted(arrive);
  }
  void wait_submitted(uint64_t count) {
    // Looked at once a round: another look might see what it would then wait to be passed.
    for (uint64_t seen = 0; (seen = disk_->submitted.count()) < count;)
      ASSERT_TRUE(disk_->submitted.wait_past(seen));
  }
  uint8_t data(uint16_t head) {
    return *guest_->memory.load<uint8_t>(kBuffers + uint64_t{0x1000} * head + 0x100);
  }
  uint8_t status(uint16_t head) {
    return *guest_->memory.load<uint8_t>(kBuffers + uint64_t{0x1000} * head + 0x300);
  }

  Log log_;
  HeldDisk* disk_ = nullptr;
  std::unique_ptr<FakeGuest> guest_;
};

TEST_F(BlkAsync, CompletesOnAnotherThreadAndOutOfOrderOfNothingElse) {
  guest_->bring_up();
  offer(0, blk::kTypeIn);
  offer(4, blk::kTypeIn);
  std::thread([this] { disk_->finish(); }).join();
  ASSERT_TRUE(guest_->wait_used(0, 1));
  EXPECT_EQ(guest_->rings[0].used(0).id, 0U);
  EXPECT_EQ(guest_->rings[0].used(0).len, 513U);
  EXPECT_EQ(data(0), 'r');
  EXPECT_EQ(status(4), 0xee);
  disk_->finish();
  ASSERT_TRUE(guest_->wait_used(0, 2));
}

TEST_F(BlkAsync, AFlushIsNotAcknowledgedBeforeItIsDone) {
  guest_->bring_up();
  offer(0, blk::kTypeFlush);
  EXPECT_EQ(guest_->rings[0].used_index(), 0);
  EXPECT_EQ(status(0), 0xee);
  disk_->finish();
  ASSERT_TRUE(guest_->wait_used(0, 1));
  EXPECT_EQ(status(0), 0);
}

TEST_F(BlkAsync, AFailedFlushIsAnError) {
  guest_->bring_up();
  offer(0, blk::kTypeFlush);
  disk_->finish(fail(Errc::io, "failed"));
  ASSERT_TRUE(guest_->wait_used(0, 1));
  EXPECT_EQ(status(0), 1);
}

TEST_F(BlkAsync, WithoutTheFlushFeatureAWriteIsDurableWhenItCompletes) {
  guest_->bring_up(virtio::feature_bit(blk::kFeatureFlush));
  offer(0, blk::kTypeOut);
  const uint64_t seen = disk_->submitted.count();
  disk_->finish();
  ASSERT_TRUE(disk_->submitted.wait_past(seen));
  EXPECT_EQ(disk_->oldest(), BlockOp::flush);
  EXPECT_EQ(guest_->rings[0].used_index(), 0);
  disk_->finish();
  ASSERT_TRUE(guest_->wait_used(0, 1));
  EXPECT_EQ(status(0), 0);
}

TEST_F(BlkAsync, AResetWaitsForWhatIsInFlightAndNothingCompletesAfterIt) {
  guest_->bring_up();
  offer(0, blk::kTypeIn);
  auto reset = std::async(std::launch::async, [this] { guest_->transport->transport().set_status(0); });
  disk_->wait_until_given_up();
  reset.get();
  EXPECT_EQ(guest_->transport->status(), 0);
  EXPECT_EQ(guest_->rings[0].used_index(), 0);
  EXPECT_EQ(data(0), 0xee);
  EXPECT_EQ(status(0), 0xee);
  guest_->bring_up();
  offer(0, blk::kTypeIn);
  disk_->finish();
  EXPECT_TRUE(guest_->wait_used(0, 1));
}

TEST_F(BlkAsync, ARequestThatFinishesDuringAPauseIsSeenBeforeThePauseEnds) {
  guest_->bring_up();
  offer(0, blk::kTypeIn);
  auto pause = std::async(std::launch::async, [this] { guest_->transport->transport().pause(); });
  disk_->finish();
  pause.get();
  EXPECT_EQ(guest_->rings[0].used_index(), 1);
}

TEST_F(BlkAsync, AGivenUpRequestIsExecutedAgainAfterThePause) {
  guest_->bring_up();
  offer(0, blk::kTypeIn);
  auto pause = std::async(std::launch::async, [this] { guest_->transport->transport().pause(); });
  disk_->wait_until_given_up();
  pause.get();
  EXPECT_EQ(guest_->rings[0].used_index(), 0);
  const uint64_t seen = disk_->submitted.count();
  guest_->transport->transport().resume();
  ASSERT_TRUE(disk_->submitted.wait_past(seen));
  disk_->finish();
  ASSERT_TRUE(guest_->wait_used(0, 1));
  EXPECT_EQ(data(0), 'r');
}

TEST_F(BlkAsync, ADeviceWithRequestsInFlightCanBeDestroyed) {
  guest_->bring_up();
  offer(0, blk::kTypeIn);
  HeldDisk* disk = disk_;
  std::thread ender([disk] { disk->wait_until_given_up(); });
  guest_->transport.reset();
  ender.join();
  EXPECT_EQ(guest_->rings[0].used_index(), 0);
}

TEST_F(BlkAsync, AdjacentRequestsAreDoneTogetherAndEachIsAnswered) {
  start_with({blk::kTypeIn, blk::kTypeIn, blk::kTypeIn}, 1, 1);
  ASSERT_EQ(disk_->requests().size(), 1U);
  EXPECT_EQ(disk_->requests()[0].offset, 0U);
  EXPECT_EQ(disk_->requests()[0].length, 3 * kSectorSize);
  EXPECT_EQ(disk_->requests()[0].data.size(), 3U);
  disk_->finish();
  ASSERT_TRUE(guest_->wait_used(0, 3));
  for (uint16_t i = 0; i < 3; ++i) {
    const auto head = static_cast<uint16_t>(4 * i);
    EXPECT_EQ(guest_->rings[0].used(i).id, head);
    EXPECT_EQ(guest_->rings[0].used(i).len, 513U);
    EXPECT_EQ(data(head), 'r');
    EXPECT_EQ(status(head), 0);
  }
}

TEST_F(BlkAsync, OnlyAdjacentRequestsOfOneKindAreDoneTogether) {
  start_with({blk::kTypeIn, blk::kTypeOut, blk::kTypeOut, blk::kTypeIn}, 1, 3);
  const auto requests = disk_->requests();
  ASSERT_EQ(requests.size(), 3U);
  EXPECT_EQ(requests[1].op, BlockOp::write);
  EXPECT_EQ(requests[1].length, 2 * kSectorSize);
  for (int i = 0; i < 3; ++i) disk_->finish();
  ASSERT_TRUE(guest_->wait_used(0, 4));
}

TEST_F(BlkAsync, RequestsApartFromEachOtherStaySo) {
  start_with({blk::kTypeOut, blk::kTypeOut}, 2, 2);
  disk_->finish();
  disk_->finish();
  ASSERT_TRUE(guest_->wait_used(0, 2));
}

TEST_F(BlkAsync, AFailureIsOnlyOfTheRequestItBelongsTo) {
  start_with({blk::kTypeOut, blk::kTypeOut, blk::kTypeOut}, 1, 1);
  const uint64_t seen = disk_->submitted.count();
  disk_->finish(fail(Errc::io, "one bad sector"));
  wait_submitted(seen + 3);
  for (const BlockRequest& request : disk_->requests()) EXPECT_EQ(request.length, kSectorSize);
  disk_->finish();
  disk_->finish(fail(Errc::io, "here"));
  disk_->finish();
  ASSERT_TRUE(guest_->wait_used(0, 3));
  EXPECT_EQ(status(0), 0);
  EXPECT_EQ(status(4), 1);
  EXPECT_EQ(status(8), 0);
}

TEST_F(BlkAsync, OneFlushMakesAdjacentWritesDurable) {
  start_with({blk::kTypeOut, blk::kTypeOut}, 1, 1, virtio::feature_bit(blk::kFeatureFlush));
  const uint64_t seen = disk_->submitted.count();
  disk_->finish();
  ASSERT_TRUE(disk_->submitted.wait_past(seen));
  EXPECT_EQ(disk_->oldest(), BlockOp::flush);
  EXPECT_EQ(guest_->rings[0].used_index(), 0);
  disk_->finish(fail(Errc::io, "not durable"));
  ASSERT_TRUE(guest_->wait_used(0, 2));
  EXPECT_EQ(status(0), 1);
  EXPECT_EQ(status(4), 1);
}

TEST_F(BlkAsync, RequestsDoneTogetherAreGivenBackTogether) {
  start_with({blk::kTypeOut, blk::kTypeOut}, 1, 1);
  auto pause = std::async(std::launch::async, [this] { guest_->transport->transport().pause(); });
  disk_->wait_until_given_up();
  pause.get();
  EXPECT_EQ(guest_->rings[0].used_index(), 0);
  const uint64_t seen = disk_->submitted.count();
  guest_->transport->transport().resume();
  ASSERT_TRUE(disk_->submitted.wait_past(seen));
  while (guest_->rings[0].used_index() < 2) {
    if (!disk_->requests().empty()) disk_->finish();
    std::this_thread::yield();
  }
}

TEST_F(BlkAsync, AQueueThatBrokeStillLetsItsRequestsEnd) {
  guest_->bring_up();
  offer(0, blk::kTypeOut);
  guest_->rings[0].set_avail_index(static_cast<uint16_t>(guest_->rings[0].avail_index() + 1000));
  guest_->transport->kick(0);
  disk_->finish();
  EXPECT_TRUE(guest_->wait_needs_reset());
  guest_->transport->transport().set_status(0);
  EXPECT_EQ(guest_->transport->status(), 0);
}

}  // namespace
}  // namespace minivmm::test
