#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <thread>

#include "vmm/core/bus.h"
#include "vmm/core/event_loop.h"
#include "vmm/core/fd.h"
#include "vmm/core/log.h"
#include "vmm/core/spec_string.h"
#include "vmm/core/state.h"

#ifdef __SANITIZE_ADDRESS__
extern "C" size_t __sanitizer_get_current_allocated_bytes();
#endif

namespace minivmm {
namespace {

#ifdef __SANITIZE_ADDRESS__
size_t allocated_bytes() {  // its mallinfo2() says nothing
  return __sanitizer_get_current_allocated_bytes();
}
#else
size_t allocated_bytes() {
  return ::mallinfo2().uordblks;
}
#endif

class NullDevice final : public IoDevice {
 public:
  std::string_view name() const override { return "null"; }
  IoStatus read(uint64_t, std::span<std::byte>) override { return IoStatus::ok; }
  IoStatus write(uint64_t, std::span<const std::byte>) override { return IoStatus::ok; }
};

TEST(Bus, FindsOnlyAccessesThatLieWholeInARange) {
  Bus bus;
  NullDevice device;
  ASSERT_TRUE(bus.insert({0x100, 0x10, &device}));
  BusView view(bus);
  EXPECT_NE(view.find(0x10c, 4), nullptr);
  EXPECT_EQ(view.find(0x10e, 4), nullptr);
  EXPECT_EQ(view.find(0xff, 2), nullptr);
}

TEST(Bus, RefusesOverlap) {
  Bus bus;
  NullDevice device;
  ASSERT_TRUE(bus.insert({0x100, 0x10, &device}));
  EXPECT_FALSE(bus.insert({0x10f, 1, &device}));
  EXPECT_FALSE(bus.insert({~uint64_t{0}, 2, &device}));
  EXPECT_TRUE(bus.insert({0x110, 1, &device}));
}

TEST(Bus, AViewSeesAMoveAtItsNextLookup) {
  Bus bus;
  NullDevice device;
  ASSERT_TRUE(bus.insert({0x100, 0x10, &device}));
  BusView view(bus);
  ASSERT_NE(view.find(0x100, 1), nullptr);
  bus.remove(0x100, &device);
  ASSERT_TRUE(bus.insert({0x200, 0x10, &device}));
  EXPECT_EQ(view.find(0x100, 1), nullptr);
  EXPECT_NE(view.find(0x200, 1), nullptr);
}

TEST(SpecString, SplitsHeadAndSettings) {
  const SpecString spec("--disk", "/a=b,,c.img,readonly=on,serial=x", {"readonly", "serial"});
  EXPECT_EQ(spec.head(), "/a=b,c.img");
  EXPECT_TRUE(spec.get_switch("readonly", false));
  EXPECT_EQ(spec.get("serial"), "x");
}

TEST(SpecString, NamesWhatItDoesNotKnow) {
  try {
    const SpecString spec("--disk", "a.img,readnly=on", {"readonly"});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("readnly"), std::string::npos);
  }
  EXPECT_THROW(SpecString("--disk", "a,readonly=on,readonly=off", {"readonly"}), ConfigError);
  EXPECT_THROW((void)SpecString("--disk", "a,readonly=maybe", {"readonly"}).get_switch("readonly", false),
               ConfigError);
}

TEST(SpecString, RepeatsOnlyWhatMayBeRepeated) {
  const SpecString spec("--net", "user,forward=1:2,restrict=on,forward=3:4", {"forward*", "restrict"});
  EXPECT_EQ(spec.get_all("forward"), (std::vector<std::string>{"1:2", "3:4"}));
  EXPECT_EQ(spec.get_all("other"), std::vector<std::string>{});
  EXPECT_THROW(SpecString("--net", "user,restrict=on,restrict=off", {"forward*", "restrict"}), ConfigError);
  try {
    const SpecString wrong("--net", "user,fwd=1:2", {"forward*", "restrict"});
    FAIL() << "not refused";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("known are forward, restrict"));
  }
}

TEST(SpecString, ParsesSizes) {
  EXPECT_EQ(parse_size("1G"), 1U << 30);
  EXPECT_EQ(parse_size("512MiB"), 512U << 20);
  EXPECT_EQ(parse_size("256", 1 << 20), 256U << 20);
  EXPECT_FALSE(parse_size("1X"));
  EXPECT_FALSE(parse_size(""));
  EXPECT_FALSE(parse_size("-1"));
  EXPECT_FALSE(parse_size("99999999999G"));
}

TEST(State, RoundTripsFieldsAndGroups) {
  StateWriter writer;
  writer.field<uint32_t>(1, 0xdeadbeef);
  writer.text(2, "hello");
  for (uint8_t i = 0; i < 3; ++i) writer.group(3, [&](StateWriter& w) { w.field<uint8_t>(1, i); });
  const auto reader = StateReader::parse(writer.data());
  ASSERT_TRUE(reader);
  EXPECT_EQ(*reader->need<uint32_t>(1), 0xdeadbeef);
  EXPECT_EQ(*reader->text(2, 10), "hello");
  EXPECT_EQ(*reader->field<uint16_t>(9, 77), 77);
  const auto groups = reader->groups(3, 10);
  ASSERT_TRUE(groups);
  ASSERT_EQ(groups->size(), 3U);
  EXPECT_EQ(*(*groups)[2].need<uint8_t>(1), 2);
  EXPECT_TRUE(reader->finish());
}

TEST(State, RefusesEveryTruncationAndWrongLength) {
  StateWriter writer;
  writer.field<uint64_t>(1, 5);
  const auto whole = writer.data();
  for (size_t n = 1; n < whole.size(); ++n) EXPECT_FALSE(StateReader::parse(whole.first(n))) << n;
  const auto reader = StateReader::parse(whole);
  ASSERT_TRUE(reader);
  EXPECT_FALSE(reader->need<uint32_t>(1));
  EXPECT_FALSE(reader->need<uint64_t>(2));
  EXPECT_FALSE(reader->bytes(1, 4));
}

TEST(State, RefusesARequiredFieldItDoesNotKnow) {
  StateWriter writer;
  writer.field<uint8_t>(uint16_t{7} | kStateRequired, 1);
  const auto reader = StateReader::parse(writer.data());
  ASSERT_TRUE(reader);
  EXPECT_FALSE(reader->finish());
  EXPECT_EQ(*reader->need<uint8_t>(7), 1);
  EXPECT_TRUE(reader->finish());
}

TEST(EventFd, OneThatAnotherHasFilledAndMadeBlockingHoldsNobodyUp) {
  const EventFd event;
  const uint64_t full = UINT64_MAX - 1;
  ASSERT_EQ(::write(event.fd(), &full, sizeof full), static_cast<ssize_t>(sizeof full));
  ASSERT_EQ(::fcntl(event.fd(), F_SETFL, 0), 0);
  event.signal_shared();
  EXPECT_TRUE(event.consume());
  event.signal_shared();
  EXPECT_TRUE(event.consume());
}

TEST(EventLoop, RunsPostedWorkTimersAndWatches) {
  EventLoop loop;
  const EventFd event;
  int order = 0;
  auto watch = loop.watch_readable(event.fd(), [&] {
    event.consume();
    order = order * 10 + 2;
    loop.stop();
  });
  auto timer = loop.make_timer([&] {
    order = order * 10 + 1;
    event.signal();
  });
  timer->arm(loop.now() + std::chrono::milliseconds(1));
  loop.run();
  EXPECT_EQ(order, 12);
}

TEST(EventLoop, AnArmedTimerMovesToItsNewDeadline) {
  EventLoop loop;
  int fired = 0;
  auto timer = loop.make_timer([&] {
    ++fired;
    loop.stop();
  });
  timer->arm(loop.now() + std::chrono::hours(1));
  std::thread other([&] { timer->arm(loop.now()); });
  loop.run();
  other.join();
  EXPECT_EQ(fired, 1);
}

TEST(EventLoop, AWatchThatGoesOnAnywayIsResumedForNothing) {
  EventLoop loop;
  const EventFd event;
  const auto watch = loop.watch_readable(event.fd(), [] {});
  const size_t before = allocated_bytes();
  for (int i = 0; i < 100'000; ++i) watch->resume();  // as the loop's thread has no time just now
  EXPECT_LT(allocated_bytes(), before + (size_t{64} << 10));
}

TEST(EventLoop, APausedWatchReportsOnceItIsResumed) {
  EventLoop loop;
  const EventFd event;
  int seen = 0;
  std::unique_ptr<Watch> watch;
  auto timer = loop.make_timer([&] {
    EXPECT_EQ(seen, 1);
    event.signal();
    watch->resume();
  });
  watch = loop.watch_readable(event.fd(), [&] {
    event.consume();
    if (++seen == 2) {
      loop.stop();
    } else {
      watch->pause();
      timer->arm(loop.now());
    }
  });
  event.signal();
  loop.run();
  EXPECT_EQ(seen, 2);
}

TEST(Log, AGuestCannotFloodIt) {
  int lines = 0;
  Log log(LogLevel::warn, [&](LogLevel, std::string_view) { ++lines; });
  for (int i = 0; i < 10000; ++i) log.guest_fault("dev", "nonsense");
  EXPECT_GE(lines, 10);
  EXPECT_LT(lines, 200);  // a slow machine may see several windows
}

}  // namespace
}  // namespace minivmm
