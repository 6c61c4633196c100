#include "vmm/core/queue_worker.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>

#include "tests/conformance/fake_host.h"

namespace minivmm::test {
namespace {

TEST(QueueWorker, RunsOnceAtOnceAndOnceAgainAfterEachKick) {
  const EventFd kick;
  Counter runs;
  auto worker = QueueWorker::start("w", kick, {}, [&](unsigned which, const StopFlag&) {
    EXPECT_EQ(which, 0U);
    runs.add();
  });
  ASSERT_TRUE(worker);
  for (int i = 0; i < 100; ++i) {
    const uint64_t seen = runs.count();
    kick.signal();
    ASSERT_TRUE(runs.wait_past(seen));
  }
}

TEST(QueueWorker, TellsWhichDescriptorWasReady) {
  const EventFd kick;
  const EventFd first;
  const EventFd second;
  Counter second_ready;
  const std::array extra{first.fd(), second.fd()};
  auto worker = QueueWorker::start("w", kick, extra, [&](unsigned which, const StopFlag&) {
    EXPECT_NE(which, 1U);
    if (which == 2) {
      second.consume();
      second_ready.add();
    }
  });
  ASSERT_TRUE(worker);
  second.signal();
  EXPECT_TRUE(second_ready.wait_past(0));
}

TEST(QueueWorker, NothingRunsAfterStop) {
  const EventFd kick;
  std::atomic<unsigned> runs{0};
  auto worker = QueueWorker::start("w", kick, {}, [&](unsigned, const StopFlag&) { ++runs; });
  ASSERT_TRUE(worker);
  (*worker)->stop();
  const unsigned before = runs;
  kick.signal();
  (*worker)->stop();
  EXPECT_EQ(runs, before);
}

TEST(QueueWorker, LongWorkSeesThatItShallStopAndThenGiveUp) {
  const EventFd kick;
  Counter started;
  auto worker = QueueWorker::start("w", kick, {}, [&](unsigned, const StopFlag& stop) {
    EXPECT_FALSE(stop.give_up());
    started.add();
    while (!stop.requested()) std::this_thread::yield();
    while (!stop.give_up()) std::this_thread::yield();
  });
  ASSERT_TRUE(worker);
  ASSERT_TRUE(started.wait_past(0));
  (*worker)->stop();
}

}  // namespace
}  // namespace minivmm::test
