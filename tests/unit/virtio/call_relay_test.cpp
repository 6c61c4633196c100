#include "virtio/call_relay.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>

#include "tests/conformance/fake_host.h"

namespace minivmm::test {
namespace {

class CallRelayTest : public testing::Test {
 protected:
  Result<void> add(const EventFd& call, size_t queue) {
    return relay_.add(call, [this, queue] { used_.at(queue).add(); });
  }

  std::array<Counter, 2> used_;
  CallRelay relay_;
};

TEST_F(CallRelayTest, PassesEachSignalOnToItsQueue) {
  const EventFd first;
  const EventFd second;
  ASSERT_TRUE(add(first, 0));
  ASSERT_TRUE(add(second, 1));
  second.signal();
  EXPECT_TRUE(used_[1].wait_past(0));
  EXPECT_EQ(used_[0].count(), 0U);
  first.signal();
  EXPECT_TRUE(used_[0].wait_past(0));
  relay_.remove(first);
  relay_.remove(second);
}

TEST_F(CallRelayTest, LosesNothingThatWasSignalledBeforeItIsRemoved) {
  for (uint64_t i = 1; i <= 200; ++i) {
    const EventFd call;
    ASSERT_TRUE(add(call, 0));
    call.signal();
    relay_.remove(call);
    ASSERT_EQ(used_[0].count(), i);
  }
}

TEST_F(CallRelayTest, PassesNothingOnOnceItIsRemoved) {
  const EventFd call;
  ASSERT_TRUE(add(call, 0));
  std::atomic<bool> end{false};
  std::thread other([&] {
    while (!end) call.signal();
  });
  EXPECT_TRUE(used_[0].wait_past(0));
  relay_.remove(call);
  const uint64_t before = used_[0].count();
  // Whatever the thread still had in hand it would pass on before it takes another one's.
  const EventFd last;
  ASSERT_TRUE(add(last, 1));
  last.signal();
  EXPECT_TRUE(used_[1].wait_past(0));
  EXPECT_EQ(used_[0].count(), before);
  end = true;
  other.join();
  relay_.remove(last);
}

TEST_F(CallRelayTest, IsNotHeldUpByWhoSharesTheEventfd) {
  const EventFd call;
  ASSERT_EQ(::fcntl(call.fd(), F_SETFL, 0), 0);  // it blocks now, for all who have it
  ASSERT_TRUE(add(call, 0));
  EXPECT_FALSE(call.consume());
  call.signal();
  EXPECT_TRUE(used_[0].wait_past(0));
  relay_.remove(call);
}

TEST_F(CallRelayTest, EndsWithEventfdsThatNobodyRemoved) {
  const EventFd call;
  ASSERT_TRUE(add(call, 0));
}

}  // namespace
}  // namespace minivmm::test
