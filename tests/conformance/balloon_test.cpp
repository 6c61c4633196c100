// The balloon as its driver sees it, and the host: memory that goes back has gone.
#include <sys/mman.h>

#include <array>
#include <set>
#include <thread>

#include "tests/conformance/fake_guest.h"
#include "virtio/device/balloon.h"

namespace minivmm::test {
namespace {

constexpr uint16_t kInflate = 0;
constexpr uint16_t kDeflate = 1;
constexpr uint16_t kStatistics = 2;
constexpr std::array<uint16_t, 2> kReporting{3, 4};
constexpr Gpa kPages{0xa0000};  // to be given to the balloon
constexpr uint64_t kPage = 4096;

class Balloon : public testing::TestWithParam<TransportKind> {
 protected:
  static VirtioBalloon::Options options() {
    return {.index = 0, .size = 0, .deflate_on_oom = true, .reporting = true};
  }
  void start(const VirtioBalloon::Options& with = options(), uint64_t without = 0) {
    auto device = std::make_unique<VirtioBalloon>(with, log_);
    balloon_ = device.get();
    guest_ = std::make_unique<FakeGuest>(GetParam(), std::move(device), log_);
    guest_->bring_up(without);
  }
  void send(uint16_t queue, const std::vector<uint32_t>& pages) {
    const auto bytes = std::as_bytes(std::span(pages));
    ASSERT_TRUE(guest_->memory.write(kBuffers, bytes));
    guest_->rings[queue].descriptor(0, kBuffers, static_cast<uint32_t>(bytes.size()));
    const auto used = guest_->submit(0, queue);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->len, 0U);
  }
  static uint32_t number(Gpa address) { return static_cast<uint32_t>(value(address) / kPage); }
  bool resident(Gpa page) {
    unsigned char in = 0;
    EXPECT_EQ(::mincore(*guest_->memory.contiguous(page, kPage), kPage, &in), 0);
    return (in & 1) != 0;
  }
  // Of `count` pages from kPages on, which are in memory: "1101".
  std::string residents(unsigned count) {
    std::string out;
    for (unsigned i = 0; i < count; ++i) out += resident(kPages + i * kPage) ? '1' : '0';
    return out;
  }
  void fill_pages(unsigned count) {
    ASSERT_TRUE(guest_->memory.fill(kPages, count * kPage, std::byte{0x77}));
  }
  uint32_t config(uint64_t offset) {
    std::array<std::byte, 4> bytes{};
    guest_->transport->read_config(offset, bytes);
    return static_cast<uint32_t>(load_le(bytes));
  }
  void set_config(uint64_t offset, uint32_t v) {
    guest_->transport->transport().write_config(offset, std::as_bytes(std::span(&v, 1)));
  }

  std::atomic<unsigned> faults_{0};
  Log log_{LogLevel::debug, [this](LogLevel, std::string_view) { ++faults_; }};
  VirtioBalloon* balloon_ = nullptr;
  std::unique_ptr<FakeGuest> guest_;
};

TEST_P(Balloon, InflatedPagesLeaveTheHostsMemoryAndReadAsZeroes) {
  start();
  fill_pages(8);
  ASSERT_EQ(residents(8), "11111111");
  const uint32_t first = number(kPages);
  send(kInflate, {first + 6, first + 1, first + 2, first + 4, first + 1});  // any order, one twice
  EXPECT_EQ(residents(8), "10010101");
  EXPECT_EQ(*guest_->memory.load<uint8_t>(kPages + kPage), 0);
  EXPECT_EQ(*guest_->memory.load<uint8_t>(kPages), 0x77);
  EXPECT_EQ(faults_, 0U);
}

TEST_P(Balloon, DeflatedPagesCanBeUsedAgain) {
  start();
  fill_pages(2);
  send(kInflate, {number(kPages)});
  send(kDeflate, {number(kPages)});
  ASSERT_TRUE(guest_->memory.store(kPages, uint64_t{5}));
  EXPECT_EQ(*guest_->memory.load<uint64_t>(kPages), 5U);
  EXPECT_EQ(faults_, 0U);
}

TEST_P(Balloon, PageNumbersOutsideRamTouchNothing) {
  start();
  fill_pages(2);
  const uint32_t hole = number(Gpa{kLowSize});
  for (const uint16_t queue : {kInflate, kDeflate}) {
    const unsigned before = faults_;
    send(queue, {hole, hole + 1, number(kHighBase) - 1, number(kHighBase + kHighSize), ~0U, ~0U - 1,
                 number(guest_->transport->window_base())});
    EXPECT_GT(faults_, before);
  }
  send(kInflate, {hole - 1, hole, number(kHighBase)});  // the good ones between them count
  EXPECT_FALSE(resident(Gpa{kLowSize - kPage}));
  EXPECT_FALSE(resident(kHighBase));
  EXPECT_EQ(residents(2), "11");
  EXPECT_TRUE(guest_->alive());
}

TEST_P(Balloon, HalfAPageNumberIsIgnored) {
  start();
  fill_pages(1);
  ASSERT_TRUE(guest_->memory.store(kBuffers, number(kPages)));
  guest_->rings[kInflate].descriptor(0, kBuffers, 3);
  ASSERT_TRUE(guest_->submit(0, kInflate));
  EXPECT_EQ(residents(1), "1");
}

TEST_P(Balloon, OfTooManyPageNumbersAtOnceTheRestKeepTheirMemory) {
  start();
  fill_pages(2);
  std::vector<uint32_t> numbers(5000, number(kPages));
  numbers.back() = number(kPages) + 1;
  send(kInflate, numbers);
  EXPECT_EQ(residents(2), "01");
  EXPECT_EQ(faults_, 1U);
  EXPECT_TRUE(guest_->alive());
}

TEST_P(Balloon, WhatGoesBackCountsAsWritten) {
  start();
  fill_pages(3);
  guest_->memory.start_dirty_tracking();
  send(kInflate, {number(kPages) + 1});
  std::set<uint64_t> dirty;
  guest_->memory.take_dirty([&](Gpa page) { dirty.insert(value(page)); });
  EXPECT_TRUE(dirty.contains(value(kPages) + kPage));
  EXPECT_FALSE(dirty.contains(value(kPages)));
}

TEST_P(Balloon, TheTargetIsInTheConfigurationAndItsChangeIsTold) {
  auto with = options();
  with.size = 16 * kPage;
  start(with);
  EXPECT_EQ(config(0), 16U);
  const uint64_t told = guest_->transport->config_interrupts().count();
  ASSERT_TRUE(guest_->transport->transport().resize(4 * kPage));
  EXPECT_EQ(config(0), 4U);
  EXPECT_GT(guest_->transport->config_interrupts().count(), told);
  set_config(4, 3);
  EXPECT_EQ(balloon_->stats(std::chrono::milliseconds(0)).target, 4 * kPage);
  EXPECT_EQ(balloon_->stats(std::chrono::milliseconds(0)).actual, 3 * kPage);
  set_config(4, 2);
  EXPECT_EQ(balloon_->stats(std::chrono::milliseconds(0)).most, 3 * kPage);
  EXPECT_FALSE(guest_->transport->transport().resize(~uint64_t{0}));
}

TEST_P(Balloon, ADriverWritesWhatItOwnsOfTheConfigurationOnly) {
  start();
  set_config(0, 99);
  set_config(4, 7);
  set_config(8, 99);
  set_config(12, 0xaaaaaaaa);
  EXPECT_EQ(config(0), 0U);
  EXPECT_EQ(config(4), 7U);
  EXPECT_EQ(config(8), 0U);
  EXPECT_EQ(config(12), 0xaaaaaaaaU);
}

TEST_P(Balloon, ReportedPagesLeaveTheHostsMemory) {
  start();
  for (const uint16_t queue : kReporting) {
    fill_pages(8);
    guest_->rings[queue].descriptor(0, kPages + kPage, 3 * kPage, virtio::kDescWrite | virtio::kDescNext, 1);
    guest_->rings[queue].descriptor(1, kPages + (6 * kPage), kPage, virtio::kDescWrite);
    ASSERT_TRUE(guest_->submit(0, queue));
    EXPECT_EQ(residents(8), "10001101");
  }
}

TEST_P(Balloon, OfAReportThatIsNotWholePagesOnlyWholePagesGo) {
  start();
  fill_pages(6);
  guest_->rings[4].descriptor(0, kPages + 1, 2 * kPage, virtio::kDescWrite | virtio::kDescNext, 1);
  guest_->rings[4].descriptor(1, kPages + (4 * kPage), kPage - 1, virtio::kDescWrite);
  ASSERT_TRUE(guest_->submit(0, 4));
  EXPECT_EQ(residents(6), "101111");
  EXPECT_EQ(*guest_->memory.load<uint8_t>(kPages), 0x77);
}

TEST_P(Balloon, PoisonedPagesStayAsTheyAre) {
  start();
  set_config(12, 0xaaaaaaaa);
  fill_pages(1);
  guest_->rings[4].descriptor(0, kPages, kPage, virtio::kDescWrite);
  ASSERT_TRUE(guest_->submit(0, 4));
  EXPECT_EQ(residents(1), "1");
}

TEST_P(Balloon, WithoutReportingThereIsNoQueueForIt) {
  auto with = options();
  with.reporting = false;
  start(with);
  EXPECT_EQ(guest_->sizes.size(), 3U);
  EXPECT_EQ(guest_->offered() & virtio::feature_bit(5), 0U);
}

class BalloonStatistics : public Balloon {
 protected:
  // The driver's buffer of figures, available to the device.
  void offer(std::initializer_list<std::pair<uint16_t, uint64_t>> figures) {
    Gpa at = kBuffers;
    for (const auto& [tag, v] : figures) {
      ASSERT_TRUE(guest_->memory.store(at, tag));
      ASSERT_TRUE(guest_->memory.store(at + 2, v));
      at = at + 10;
    }
    guest_->rings[kStatistics].descriptor(0, kBuffers, static_cast<uint32_t>(10 * figures.size()));
    guest_->rings[kStatistics].offer(0);
    guest_->transport->kick(kStatistics);
  }
};

TEST_P(BalloonStatistics, AreAskedForAndWaitedFor) {
  start();
  offer({{4, 100}});  // at the driver's start
  while (balloon_->stats(std::chrono::milliseconds(0)).free != 100) std::this_thread::yield();
  BalloonStats stats;
  std::atomic<bool> answered{false};
  std::thread asks([&] {
    stats = balloon_->stats(kDeadline);
    answered = true;
  });
  // As a driver does: whenever it has its buffer back, it hands it over with new figures.
  for (uint16_t offered = 1; !answered; std::this_thread::yield()) {
    if (guest_->rings[kStatistics].used_index() != offered) continue;
    offer({{4, 1000}, {5, 2000}, {6, 1500}, {99, 1}, {2, 7}});
    ++offered;
  }
  asks.join();
  EXPECT_EQ(stats.free, 1000U);
  EXPECT_EQ(stats.total, 2000U);
  EXPECT_EQ(stats.available, 1500U);
  EXPECT_EQ(stats.major_faults, 7U);
  EXPECT_FALSE(stats.caches);
  EXPECT_TRUE(stats.time);
}

TEST_P(BalloonStatistics, OfAGuestWithoutADriverAreEmptyAtOnce) {
  start();
  const auto began = Clock::now();
  const BalloonStats stats = balloon_->stats(kDeadline);
  EXPECT_LT(Clock::now() - began, kDeadline / 2);
  EXPECT_FALSE(stats.free);
  EXPECT_FALSE(stats.time);
}

TEST_P(BalloonStatistics, OutliveAResetAndAreNotAskedForUntilThereIsADriverAgain) {
  start();
  offer({{4, 100}});
  while (balloon_->stats(std::chrono::milliseconds(0)).free != 100) std::this_thread::yield();
  guest_->bring_up();
  const auto began = Clock::now();
  EXPECT_EQ(balloon_->stats(kDeadline).free, 100U);
  EXPECT_LT(Clock::now() - began, kDeadline / 2);
}

TEST_P(BalloonStatistics, OutliveAPauseWithTheirBuffer) {
  start();
  offer({{4, 100}});
  while (balloon_->stats(std::chrono::milliseconds(0)).free != 100) std::this_thread::yield();
  guest_->transport->transport().pause();
  guest_->transport->transport().resume();
  EXPECT_TRUE(guest_->alive());
}

TEST_P(Balloon, StopsAndStartsUnderTraffic) {
  start();
  std::atomic<bool> stop{false};
  std::thread asks([&] {
    while (!stop) static_cast<void>(balloon_->stats(std::chrono::milliseconds(1)));
  });
  for (unsigned round = 0; round < 30; ++round) {
    for (uint16_t head = 0; head < 8; ++head) {
      guest_->rings[kInflate].descriptor(head, kHighBase, 4096);
      guest_->rings[kInflate].offer(head);
    }
    guest_->transport->kick(kInflate);
    guest_->stop_and_start(round);
  }
  stop = true;
  asks.join();
  EXPECT_TRUE(guest_->alive());
}

std::string transport_name(const testing::TestParamInfo<TransportKind>& info) {
  return info.param == TransportKind::pci ? "pci" : "mmio";
}
INSTANTIATE_TEST_SUITE_P(Transports, Balloon, testing::Values(TransportKind::pci, TransportKind::mmio),
                         transport_name);
INSTANTIATE_TEST_SUITE_P(Transports, BalloonStatistics,
                         testing::Values(TransportKind::pci, TransportKind::mmio), transport_name);

}  // namespace
}  // namespace minivmm::test
