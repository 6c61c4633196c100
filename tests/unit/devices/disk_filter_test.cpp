#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "devices/block/patient_disk.h"
#include "devices/block/throttled_disk.h"
#include "vmm/core/queue_worker.h"

namespace minivmm {
namespace {

using std::chrono::milliseconds;

// Succeeds, or has no space while `full`.
class FakeDisk final : public BlockBackend {
 public:
  uint64_t capacity() const override { return 1 << 20; }
  bool read_only() const override { return false; }
  BlockGeometry geometry() const override { return {}; }
  std::string_view format() const override { return "fake"; }
  Task<Result<void>> run(IoEngine&, BlockRequest request) override {
    ++runs;
    if (request.op == BlockOp::write && full) co_return fail(Errc::no_space, "full");
    if (request.op == BlockOp::discard) co_return fail(Errc::io, "broken");
    co_return Result<void>{};
  }
  Task<Result<BlockExtent>> extent(IoEngine&, uint64_t, uint64_t length) override {
    co_return BlockExtent{.length = length};
  }
  Task<Result<void>> resize(IoEngine&, uint64_t) override { co_return Result<void>{}; }
  Task<Result<void>> close(IoEngine&) override { co_return Result<void>{}; }

  std::atomic<bool> full{false};
  std::atomic<int> runs{0};
};

class Stalls final : public StallSink {
 public:
  explicit Stalls(FakeDisk*& disk) : disk_(disk) {}
  void stalled(std::string_view what) override {
    ++stalls;
    said = what;
    if (mend) disk_->full = false;
  }
  void going_on() override { ++ends; }

  std::atomic<int> stalls{0};
  std::atomic<int> ends{0};
  std::string said;
  bool mend = true;  // there is space as soon as somebody was told

 private:
  FakeDisk*& disk_;
};

// A flag that a worker's stop() has set.
class Stopped {
 public:
  Stopped() {
    auto worker =
        QueueWorker::start("stop", kick_, {}, [this](unsigned, const StopFlag& stop) { flag_ = &stop; });
    worker_ = std::move(*worker);
    worker_->stop();
  }
  const StopFlag* flag() const { return flag_; }

 private:
  EventFd kick_;
  const StopFlag* flag_ = nullptr;
  std::unique_ptr<QueueWorker> worker_;
};

constexpr BlockRequest kWrite{.op = BlockOp::write, .offset = 0, .length = 4096};

class Patient : public ::testing::Test {
 protected:
  PatientDisk make() {
    auto fake = std::make_unique<FakeDisk>();
    fake_ = fake.get();
    return {std::move(fake), "disk /images/a.qcow2", stalls_, milliseconds(1)};
  }
  FakeDisk* fake_ = nullptr;
  Stalls stalls_{fake_};
  std::unique_ptr<IoEngine> engine_ = IoEngine::create();
};

TEST_F(Patient, HoldsTheGuestUntilThereIsSpaceAndThenGoesOn) {
  PatientDisk disk = make();
  fake_->full = true;
  EXPECT_TRUE(engine_->run(disk.run(*engine_, kWrite)));
  EXPECT_EQ(stalls_.stalls, 1);
  EXPECT_EQ(stalls_.ends, 1);
  EXPECT_EQ(stalls_.said, "disk /images/a.qcow2: the host has no space left for it");
}

TEST_F(Patient, HoldsTheGuestOnceForAllRequestsThatAreStuck) {
  PatientDisk disk = make();
  fake_->full = true;
  stalls_.mend = false;
  int ended = 0;
  for (int i = 0; i < 20; ++i) {
    disk.submit(*engine_, kWrite, [&](Result<void> result) { ended += result.has_value() ? 1 : 100; });
  }
  while (fake_->runs < 60) {
    if (engine_->poll() == 0) engine_->wait();
  }
  EXPECT_EQ(ended, 0);
  fake_->full = false;
  while (ended < 20) {
    if (engine_->poll() == 0) engine_->wait();
  }
  EXPECT_EQ(ended, 20);
  EXPECT_EQ(stalls_.stalls, 1);
  EXPECT_EQ(stalls_.ends, 1);
}

TEST_F(Patient, GivesAStuckRequestBackWhenItsQueueStops) {
  PatientDisk disk = make();
  fake_->full = true;
  stalls_.mend = false;
  const Stopped stopped;
  BlockRequest request = kWrite;
  request.stop = stopped.flag();
  const auto result = engine_->run(disk.run(*engine_, request));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::closed);
  EXPECT_EQ(stalls_.ends, 1);
}

TEST_F(Patient, PassesOtherErrorsOn) {
  PatientDisk disk = make();
  const auto result = engine_->run(disk.run(*engine_, {.op = BlockOp::discard, .length = 512}));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::io);
  EXPECT_EQ(stalls_.stalls, 0);
}

TEST(ThrottledDisk, HoldsBackWhatIsOverTheLimitInOrder) {
  auto engine = IoEngine::create();
  ThrottledDisk disk(std::make_unique<FakeDisk>(), {.per_second = 1000, .burst = 10}, {});
  std::vector<int> order;
  const auto began = std::chrono::steady_clock::now();
  for (int i = 0; i < 40; ++i) {
    disk.submit(*engine, kWrite, [&order, i](Result<void> result) { order.push_back(result ? i : -1); });
  }
  EXPECT_EQ(order.size(), 10U);
  while (order.size() < 40) {
    if (engine->poll() == 0) engine->wait();
  }
  EXPECT_GE(std::chrono::steady_clock::now() - began, milliseconds(29));  // 30 of them at 1000 a second
  for (int i = 0; i < 40; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(ThrottledDisk, LetsFlushesPass) {
  auto engine = IoEngine::create();
  ThrottledDisk disk(std::make_unique<FakeDisk>(), {.per_second = 1, .burst = 1}, {});
  EXPECT_TRUE(engine->run(disk.run(*engine, kWrite)));
  EXPECT_TRUE(engine->run(disk.run(*engine, {.op = BlockOp::flush})));
}

TEST(ThrottledDisk, GivesWhatWaitsBackWhenItsQueueStops) {
  auto engine = IoEngine::create();
  ThrottledDisk disk(std::make_unique<FakeDisk>(), {}, {.per_second = 1, .burst = 1});
  const Stopped stopped;
  BlockRequest request = kWrite;
  EXPECT_TRUE(engine->run(disk.run(*engine, request)));
  request.stop = stopped.flag();
  const auto result = engine->run(disk.run(*engine, request));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::closed);
}

TEST(ThrottledDisk, SharesItsLimitBetweenQueues) {
  ThrottledDisk disk(std::make_unique<FakeDisk>(), {.per_second = 2000, .burst = 1}, {});
  std::atomic<int> done{0};
  std::vector<std::thread> queues;
  const auto began = std::chrono::steady_clock::now();
  for (int q = 0; q < 3; ++q) {
    queues.emplace_back([&] {
      auto engine = IoEngine::create();
      for (int i = 0; i < 20; ++i) done += engine->run(disk.run(*engine, kWrite)).has_value() ? 1 : 0;
    });
  }
  for (auto& queue : queues) queue.join();
  EXPECT_EQ(done, 60);
  EXPECT_GE(std::chrono::steady_clock::now() - began, milliseconds(29));
}

}  // namespace
}  // namespace minivmm
