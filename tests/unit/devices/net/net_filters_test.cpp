// What lies between a card and its back end: the MTU, the rate, the capture.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <fstream>
#include <iterator>

#include "devices/net/net_mtu.h"
#include "devices/net/net_rate.h"
#include "devices/net/pcap.h"
#include "tests/conformance/fake_net.h"
#include "vmm/core/error.h"

namespace minivmm::test {
namespace {

struct Wrapped {
  std::unique_ptr<NetBackend> net;
  FakeNet* below;
  NetQueue& queue() const { return net->queue(0); }
};

template <class Wrap>
Wrapped wrap(Wrap with, const NetTraits& traits = {.kind = "fake"}) {
  auto below = std::make_unique<FakeNet>(traits);
  FakeNet* raw = below.get();
  return {with(std::move(below)), raw};
}

Result<bool> send(NetQueue& queue, Bytes bytes) {
  // In two pieces, as a card gives them.
  const std::array pieces{iovec{bytes.data(), kNetHeaderSize},
                          iovec{bytes.data() + kNetHeaderSize, bytes.size() - kNetHeaderSize}};
  return queue.send(pieces);
}

Result<Bytes> receive(NetQueue& queue, size_t room = 70'000) {
  Bytes bytes(room);
  const std::array pieces{iovec{bytes.data(), kNetHeaderSize},
                          iovec{bytes.data() + kNetHeaderSize, room - kNetHeaderSize}};
  const auto size = queue.receive(pieces);
  if (!size) return std::unexpected(size.error());
  bytes.resize(*size);
  return bytes;
}

Bytes tagged(size_t frame_bytes) {
  Bytes bytes = make_frame(frame_bytes);
  bytes[kNetHeaderSize + 12] = std::byte{0x81};
  bytes[kNetHeaderSize + 13] = std::byte{0};
  return bytes;
}

TEST(NetMtu, IsToldAndKept) {
  const auto net = wrap([](auto below) { return limit_net_mtu(std::move(below), 1500); });
  EXPECT_EQ(net.net->traits().mtu, 1500);
  EXPECT_TRUE(send(net.queue(), make_frame(1514)));
  EXPECT_TRUE(send(net.queue(), tagged(1518)));
  EXPECT_FALSE(send(net.queue(), make_frame(1515)));
  EXPECT_FALSE(send(net.queue(), tagged(1519)));
  EXPECT_EQ(net.below->wire().sent().size(), 2U);
  net.below->wire().give(make_frame(1514));
  net.below->wire().give(make_frame(1515));
  EXPECT_TRUE(receive(net.queue()));
  const auto large = receive(net.queue());
  ASSERT_FALSE(large);
  EXPECT_EQ(large.error().code, Errc::too_large);
}

TEST(NetMtu, SegmentsThatAreStillToBeCutPass) {
  const auto net = wrap([](auto below) { return limit_net_mtu(std::move(below), 1500); });
  EXPECT_TRUE(send(net.queue(), make_frame(30'000, {.gso_type = net::kGsoTcp4, .gso_size = 1448})));
}

class NetRate : public testing::Test {
 protected:
  static Wrapped limited(uint64_t per_second, uint64_t burst) {
    return wrap([&](auto below) { return limit_net_rate(std::move(below), {per_second, burst}); });
  }
  // Waits as a worker does, edge-triggered; false at the deadline.
  static bool wait(NetQueue& queue) {
    const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    EXPECT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, queue.fd(), &event), 0);
    return ::epoll_wait(epoll.get(), &event, 1, 20'000) == 1;
  }
};

TEST_F(NetRate, ABurstPassesAndThenFramesWaitForTheirTime) {
  const auto net = limited(100'000, 1000);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(*send(net.queue(), make_frame(1000)), true);
  for (int i = 0; i < 5; ++i) {
    auto sent = send(net.queue(), make_frame(1000));
    while (sent && !*sent) {
      ASSERT_TRUE(wait(net.queue()));
      sent = send(net.queue(), make_frame(1000));
    }
    ASSERT_TRUE(sent);
  }
  // Five frames at 10 ms each; how much longer it took is the host's affair.
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(49));
  EXPECT_EQ(net.below->wire().sent().size(), 6U);
}

TEST_F(NetRate, FramesForTheGuestWaitAtTheBackEnd) {
  const auto net = limited(10'000, 1000);
  for (int i = 0; i < 3; ++i) net.below->wire().give(make_frame(900));
  EXPECT_EQ(receive(net.queue())->size(), kNetHeaderSize + 900);
  EXPECT_EQ(receive(net.queue())->size(), kNetHeaderSize + 900);  // pays later
  EXPECT_EQ(receive(net.queue())->size(), 0U);
  EXPECT_FALSE(net.queue().ready());
  EXPECT_EQ(net.below->wire().coming(), 1U);
  for (auto got = receive(net.queue()); got && got->empty(); got = receive(net.queue())) {
    ASSERT_TRUE(wait(net.queue()));
  }
  EXPECT_EQ(net.below->wire().coming(), 0U);
}

TEST_F(NetRate, AFrameThatTheBackEndHasNoRoomForIsPaidOnce) {
  const auto net = limited(1000, 2000);
  net.below->wire().set_room(false);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(*send(net.queue(), make_frame(1000)), false);
  net.below->wire().set_room(true);
  EXPECT_EQ(*send(net.queue(), make_frame(1000)), true);
  EXPECT_EQ(*send(net.queue(), make_frame(1000)), true);
  EXPECT_EQ(*send(net.queue(), make_frame(1000)), false);
}

TEST_F(NetRate, WhatIsBelowWakesItsWorkerEachTime) {
  const auto net = limited(1'000'000'000, 0);
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  ASSERT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, net.queue().fd(), &event), 0);
  for (int i = 0; i < 100; ++i) {
    net.below->wire().give(make_frame(60));
    ASSERT_EQ(::epoll_wait(epoll.get(), &event, 1, 20'000), 1) << i;
    EXPECT_FALSE(receive(net.queue())->empty());
  }
}

class Pcap : public testing::Test {
 protected:
  std::string path() const { return (folder_.path() / "net.pcap").string(); }
  Wrapped captured() {
    return wrap([this](auto below) { return capture_net(std::move(below), path(), log_); });
  }
  Bytes file() const {
    std::ifstream in(path(), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
  }
  static uint32_t word(const Bytes& bytes, size_t at) {
    uint32_t v = 0;
    std::memcpy(&v, bytes.data() + at, sizeof v);
    return v;
  }
  // The record at `at`, which moves behind it.
  static Bytes record(const Bytes& bytes, size_t& at) {
    const uint32_t captured = word(bytes, at + 8);
    EXPECT_LT(word(bytes, at + 4), 1'000'000'000U);
    const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at) + 16;
    at += 16 + captured;
    return {begin, begin + captured};
  }
  TempFolder folder_;
  std::vector<std::string> lines_;
  Log log_{LogLevel::warn, [this](LogLevel, std::string_view line) { lines_.emplace_back(line); }};
};

TEST_F(Pcap, HoldsTheFramesOfBothDirections) {
  {
    const auto net = captured();
    EXPECT_TRUE(send(net.queue(), make_frame(100)));
    net.below->wire().give(make_frame(200));
    EXPECT_TRUE(receive(net.queue()));
    EXPECT_EQ(receive(net.queue())->size(), 0U);
  }
  const Bytes bytes = file();
  EXPECT_EQ(word(bytes, 0), 0xa1b23c4dU);
  EXPECT_EQ(word(bytes, 4), 0x0004'0002U);
  EXPECT_EQ(word(bytes, 20), 1U);
  size_t at = 24;
  EXPECT_EQ(record(bytes, at), frame_of(make_frame(100)));
  EXPECT_EQ(record(bytes, at), frame_of(make_frame(200)));
  EXPECT_EQ(at, bytes.size());
}

TEST_F(Pcap, AFrameThatHasToWaitIsThereOnce) {
  const auto net = captured();
  net.below->wire().set_room(false);
  EXPECT_EQ(*send(net.queue(), make_frame(100)), false);
  EXPECT_EQ(*send(net.queue(), make_frame(100)), false);
  net.below->wire().set_room(true);
  EXPECT_EQ(*send(net.queue(), make_frame(100)), true);
  EXPECT_EQ(file().size(), 24U + 16 + 100);
}

TEST_F(Pcap, LongFramesAreCutAndSayHowLongTheyWere) {
  const auto net = captured();
  EXPECT_TRUE(send(net.queue(), make_frame(65550)));
  const Bytes bytes = file();
  EXPECT_EQ(word(bytes, 24 + 8), 65535U);
  EXPECT_EQ(word(bytes, 24 + 12), 65550U);
  EXPECT_EQ(bytes.size(), 24U + 16 + 65535);
}

TEST_F(Pcap, IsForItsOwnerAlone) {
  const auto net = captured();
  EXPECT_EQ(std::filesystem::status(path()).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST_F(Pcap, AFileInUseOrNoFileIsRefused) {
  const auto net = captured();
  EXPECT_TRUE(send(net.queue(), make_frame(100)));
  EXPECT_THROW(captured(), HostError);
  EXPECT_EQ(file().size(), 24U + 16 + 100);  // untouched
  Log log;
  EXPECT_THROW(capture_net(std::make_unique<FakeNet>(NetTraits{}), folder_.path().string(), log), HostError);
  EXPECT_THROW(capture_net(std::make_unique<FakeNet>(NetTraits{}), "/dev/null", log), HostError);
  EXPECT_THROW(capture_net(std::make_unique<FakeNet>(NetTraits{}), path() + "/no/such", log), HostError);
}

// A limit on the file's size stands for a full disk.
TEST_F(Pcap, AFullDiskEndsTheCaptureAndNothingElse) {
  const auto net = captured();
  EXPECT_TRUE(send(net.queue(), make_frame(1000)));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1500, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_TRUE(send(net.queue(), make_frame(1000)));
  EXPECT_TRUE(send(net.queue(), make_frame(1000)));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(net.below->wire().sent().size(), 3U);
  EXPECT_EQ(file().size(), 24U + 16 + 1000);  // whole records only
  ASSERT_EQ(lines_.size(), 1U);
  EXPECT_NE(lines_[0].find(path()), std::string::npos);
}

}  // namespace
}  // namespace minivmm::test
