#include "virtio/device_thread.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "tests/conformance/fake_host.h"

namespace minivmm::test {
namespace {

TEST(DeviceThread, LooksOnceAtTheStartAndAgainAfterEachWake) {
  Counter works;
  DeviceThread thread("t", {.ready = [](uint64_t, uint32_t) {},
                            .work =
                                [&] {
                                  works.add();
                                  return false;
                                }});
  ASSERT_TRUE(thread.start());
  ASSERT_TRUE(thread.start());  // idempotent
  ASSERT_TRUE(works.wait_past(0));
  for (int i = 0; i < 100; ++i) {
    const uint64_t seen = works.count();
    thread.wake();
    ASSERT_TRUE(works.wait_past(seen));
  }
}

TEST(DeviceThread, TellsWhichDescriptorIsReadyUntilItIsForgotten) {
  const std::array<EventFd, 2> events{};
  std::array<Counter, 2> ready;
  Counter works;
  DeviceThread thread("t", {.ready = [&](uint64_t tag, uint32_t) { ready.at(tag).add(); },
                            .work =
                                [&] {
                                  works.add();
                                  return false;
                                }});
  for (uint64_t tag = 0; tag < 2; ++tag) {
    ASSERT_TRUE(thread.watch(events.at(tag).fd(), EPOLLIN | EPOLLET, tag));
  }
  ASSERT_TRUE(thread.start());
  events[1].signal();
  ASSERT_TRUE(ready[1].wait_past(0));
  EXPECT_EQ(ready[0].count(), 0U);
  thread.forget(events[0].fd());
  events[0].signal();
  const uint64_t seen = works.count();
  thread.wake();
  ASSERT_TRUE(works.wait_past(seen));
  EXPECT_EQ(ready[0].count(), 0U);
}

TEST(DeviceThread, GivesWayToWhoWantsTheLockHoweverBusyItIs) {
  uint64_t works = 0;  // under the lock
  DeviceThread thread("t", {.ready = [](uint64_t, uint32_t) {},
                            .work =
                                [&] {
                                  ++works;
                                  return true;  // always more to do
                                }});
  ASSERT_TRUE(thread.start());
  for (int i = 0; i < 50; ++i) {
    const DeviceThread::Lock lock(thread);
    const uint64_t seen = works;
    std::this_thread::yield();
    EXPECT_EQ(works, seen);
  }
  thread.stop();
  const uint64_t last = works;
  thread.wake();
  EXPECT_EQ(works, last);
}

}  // namespace
}  // namespace minivmm::test
