#include "virtio/device/vsock_mux.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <thread>

#include "tests/unit/virtio/vsock_rig.h"

namespace minivmm::test {
namespace {

using vsock::Op;

class Vsock : public testing::Test {
 protected:
  static constexpr uint32_t kGuest = 1000;
  static constexpr uint32_t kService = 52;

  static std::vector<Op> ops(const std::vector<VsockPacket>& packets) {
    std::vector<Op> out;
    for (const VsockPacket& packet : packets) out.push_back(packet.op());
    return out;
  }
  static vsock::Header to_service(Op op) { return VsockRig::header(op, kGuest, kService); }
  // The guest connects to the service; the service's end.
  UniqueFd connect() { return connect_from(kGuest); }
  UniqueFd connect_from(uint32_t guest_port) {
    rig_.host.listening.insert(kService);
    rig_.send(VsockRig::header(Op::request, guest_port, kService));
    EXPECT_THAT(ops(rig_.packets()), testing::ElementsAre(Op::response));
    UniqueFd end = std::move(rig_.host.arrived.front());
    rig_.host.arrived.pop_front();
    return end;
  }
  // The guest sends to the service until only credit for less than a chunk is left; what it has sent.
  std::string use_up_credit() {
    constexpr size_t kChunk = 16384;
    std::string sent;
    for (uint32_t passed_on = 0; sent.size() - passed_on <= VsockConnection::kBufAlloc - kChunk;) {
      const std::string chunk(kChunk, static_cast<char>('a' + sent.size() / kChunk % 26));
      rig_.send(to_service(Op::rw), chunk);
      sent += chunk;
      rig_.send(to_service(Op::credit_request));
      for (const VsockPacket& packet : rig_.packets()) passed_on = packet.header.fwd_cnt;
    }
    return sent;
  }
  static size_t open_descriptors() {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
  }
  void shut_down(uint32_t flags) {
    vsock::Header header = to_service(Op::shutdown);
    header.flags = flags;
    rig_.send(header);
  }
  VsockRig rig_;
};

TEST_F(Vsock, AGuestReachesAServiceOfTheHost) {
  rig_.host.listening.insert(kService);
  rig_.send(to_service(Op::request));
  const auto packets = rig_.packets();
  ASSERT_THAT(ops(packets), testing::ElementsAre(Op::response));
  EXPECT_EQ(packets[0].header.src_cid, vsock::kHostCid);
  EXPECT_EQ(packets[0].header.dst_cid, VsockRig::kCid);
  EXPECT_EQ(packets[0].header.src_port, kService);
  EXPECT_EQ(packets[0].header.dst_port, kGuest);
  EXPECT_EQ(packets[0].header.buf_alloc, VsockConnection::kBufAlloc);
  const UniqueFd service = std::move(rig_.host.arrived.front());
  rig_.send(to_service(Op::rw), "from the guest");
  EXPECT_EQ(read_all(service.get()), "from the guest");
  write_all(service.get(), "from the host");
  const auto answer = rig_.packets();
  ASSERT_THAT(ops(answer), testing::ElementsAre(Op::rw));
  EXPECT_EQ(answer[0].data, "from the host");
  EXPECT_EQ(answer[0].header.fwd_cnt, 14U);
}

TEST_F(Vsock, APortThatNobodyListensOnIsReset) {
  rig_.send(to_service(Op::request));
  EXPECT_THAT(ops(rig_.packets()), testing::ElementsAre(Op::rst));
  EXPECT_EQ(rig_.mux.connections(), 0U);
}

TEST_F(Vsock, AProgramOfTheHostReachesThePortThatItNames) {
  const UniqueFd client = rig_.host.client();
  rig_.look();
  write_all(client.get(), "CONN");
  EXPECT_TRUE(rig_.packets().empty());
  write_all(client.get(), "ECT 52\nbehind it");
  const auto packets = rig_.packets();
  ASSERT_THAT(ops(packets), testing::ElementsAre(Op::request));
  EXPECT_EQ(packets[0].header.dst_port, 52U);
  const uint32_t port = packets[0].header.src_port;
  EXPECT_EQ(read_all(client.get()), "");
  rig_.send(VsockRig::header(Op::response, 52, port));
  EXPECT_EQ(read_all(client.get()), "OK " + std::to_string(port) + "\n");
  const auto data = rig_.packets();
  ASSERT_THAT(ops(data), testing::ElementsAre(Op::rw));
  EXPECT_EQ(data[0].data, "behind it");
}

TEST_F(Vsock, AProgramThatTheGuestRefusesSeesItsEnd) {
  const UniqueFd client = rig_.host.client();
  write_all(client.get(), "CONNECT 52\n");
  const auto packets = rig_.packets();
  ASSERT_EQ(packets.size(), 1U);
  rig_.send(VsockRig::header(Op::rst, 52, packets[0].header.src_port));
  EXPECT_TRUE(at_end(client.get()));
  EXPECT_EQ(rig_.mux.connections(), 0U);
  EXPECT_TRUE(rig_.packets().empty());  // no reset for a reset
}

TEST_F(Vsock, GreetingsThatMakeNoSenseAreClosed) {
  for (const char* greeting :
       {"\n", "CONNECT\n", "CONNECT \n", "CONNECT x\n", "CONNECT 1 2\n", "CONNECT -1\n",
        "CONNECT 4294967295\n", "CONNECT 4294967296\n", "GET / HTTP/1.1\r\n",
        "CONNECT 00000000000000000000000000001\n", "a line that has no end for a long time"}) {
    SCOPED_TRACE(greeting);
    const UniqueFd client = rig_.host.client();
    write_all(client.get(), greeting);
    EXPECT_TRUE(rig_.packets().empty());
    char c = 0;
    errno = 0;
    EXPECT_LE(::read(client.get(), &c, 1), 0);
    EXPECT_NE(errno, EAGAIN);  // the end, or a reset where something was left unread
    EXPECT_EQ(rig_.mux.connections(), 0U);
  }
}

TEST_F(Vsock, SilentProgramsGiveWayToTheNext) {
  std::vector<UniqueFd> silent;
  for (size_t i = 0; i < VsockMux::kMaxGreetings + 10; ++i) silent.push_back(rig_.host.client());
  rig_.look();
  EXPECT_EQ(rig_.mux.connections(), VsockMux::kMaxGreetings);
  EXPECT_TRUE(at_end(silent.front().get()));
  EXPECT_FALSE(at_end(silent.back().get()));
  write_all(silent.back().get(), "CONNECT 7\n");
  EXPECT_THAT(ops(rig_.packets()), testing::ElementsAre(Op::request));
}

TEST_F(Vsock, WhatTheHostDoesNotTakeIsBoundedByCredit) {
  const UniqueFd service = connect();
  const std::string data(32768, 'x');
  size_t sent = 0;
  bool reset = false;
  while (!reset && sent < (64U << 20)) {  // a guest that does not look at its credit
    rig_.send(to_service(Op::rw), data);
    sent += data.size();
    for (const VsockPacket& packet : rig_.packets()) reset = reset || packet.op() == Op::rst;
  }
  EXPECT_TRUE(reset);
  EXPECT_LE(sent, VsockConnection::kBufAlloc + (1U << 20));  // the socket has a buffer as well
}

TEST_F(Vsock, AGuestThatKeepsToItsCreditLosesNothing) {
  const UniqueFd service = connect();
  uint32_t sent = 0;
  uint32_t taken = 0;  // that we were told of
  std::string read;
  std::string wanted;
  constexpr uint32_t kTotal = 3U << 20;
  while (read.size() < kTotal) {
    const uint32_t credit = VsockConnection::kBufAlloc - (sent - taken);
    const uint32_t n = std::min({credit, uint32_t{10007}, kTotal - sent});
    if (n != 0) {
      std::string data(n, static_cast<char>('a' + sent % 23));
      wanted += data;
      rig_.send(to_service(Op::rw), std::move(data));
      sent += n;
    } else {
      const std::string more = read_all(service.get());
      ASSERT_FALSE(more.empty()) << "stuck after " << read.size();
      read += more;
    }
    for (const VsockPacket& packet : rig_.packets()) {
      ASSERT_EQ(packet.op(), Op::credit_update);
      taken = packet.header.fwd_cnt;
    }
  }
  EXPECT_EQ(read, wanted);
}

TEST_F(Vsock, TheHostsDataWaitsForTheGuestsCredit) {
  const UniqueFd service = connect();
  vsock::Header credit = to_service(Op::credit_update);
  credit.buf_alloc = 100;
  rig_.send(credit);
  write_all(service.get(), std::string(1000, 'x'));
  auto packets = rig_.packets();
  ASSERT_THAT(ops(packets),
              testing::ElementsAre(Op::rw, Op::credit_request));  // asked once, not again and again
  EXPECT_EQ(packets[0].data.size(), 100U);
  EXPECT_TRUE(rig_.packets().empty());
  credit.fwd_cnt = 60;
  rig_.send(credit);
  packets = rig_.packets();
  ASSERT_THAT(ops(packets), testing::ElementsAre(Op::rw, Op::credit_request));
  EXPECT_EQ(packets[0].data.size(), 60U);
}

TEST_F(Vsock, AGuestThatTakesCreditBackGetsNothing) {
  const UniqueFd service = connect();
  write_all(service.get(), "0123456789");
  ASSERT_EQ(rig_.packets().size(), 1U);
  vsock::Header credit = to_service(Op::credit_update);
  for (const auto& [alloc, fwd] :
       {std::pair{5U, 0U}, std::pair{0U, 10U}, std::pair{~0U, 11U}, std::pair{9U, ~0U}}) {
    credit.buf_alloc = alloc;
    credit.fwd_cnt = fwd;
    rig_.send(credit);
    write_all(service.get(), "x");
    for (const VsockPacket& packet : rig_.packets()) EXPECT_NE(packet.op(), Op::rw) << alloc << " " << fwd;
  }
}

TEST_F(Vsock, CreditIsToldWhenAskedFor) {
  const UniqueFd service = connect();
  rig_.send(to_service(Op::credit_request));
  EXPECT_THAT(ops(rig_.packets()), testing::ElementsAre(Op::credit_update));
}

TEST_F(Vsock, EachSideCanEndItsHalf) {
  const UniqueFd service = connect();
  write_all(service.get(), "last words");
  ASSERT_EQ(::shutdown(service.get(), SHUT_WR), 0);
  auto packets = rig_.packets();
  ASSERT_THAT(ops(packets), testing::ElementsAre(Op::rw, Op::shutdown));
  EXPECT_EQ(packets[1].header.flags, vsock::kShutdownSend);
  rig_.send(to_service(Op::rw), "an answer");
  EXPECT_EQ(read_all(service.get()), "an answer");
  shut_down(vsock::kShutdownSend);
  EXPECT_TRUE(at_end(service.get()));
  EXPECT_EQ(rig_.mux.connections(), 1U);
  shut_down(vsock::kShutdownBoth);
  EXPECT_THAT(ops(rig_.packets()), testing::ElementsAre(Op::rst));
  EXPECT_EQ(rig_.mux.connections(), 0U);
}

TEST_F(Vsock, AHostThatEndsItsHalfAndThenGoesIsToldTwice) {
  UniqueFd service = connect();
  ::shutdown(service.get(), SHUT_WR);
  auto packets = rig_.packets();
  ASSERT_THAT(ops(packets), testing::ElementsAre(Op::shutdown));
  EXPECT_EQ(packets[0].header.flags, vsock::kShutdownSend);
  service.reset();
  packets = rig_.packets();  // though the guest has sent nothing that could fail
  ASSERT_THAT(ops(packets), testing::ElementsAre(Op::shutdown));
  EXPECT_EQ(packets[0].header.flags, vsock::kShutdownBoth);
}

TEST_F(Vsock, AGuestThatSendsAfterItSaidItWouldNotIsReset) {
  const UniqueFd service = connect();
  shut_down(vsock::kShutdownSend);
  rig_.send(to_service(Op::rw), "more");
  EXPECT_THAT(ops(rig_.packets()), testing::ElementsAre(Op::rst));
}

TEST_F(Vsock, AHostThatClosesIsToldAndForgottenAtTheGuestsReset) {
  UniqueFd service = connect();
  write_all(service.get(), "bye");
  service.reset();
  const auto packets = rig_.packets();
  ASSERT_THAT(ops(packets), testing::ElementsAre(Op::rw, Op::shutdown));
  EXPECT_EQ(packets[1].header.flags, vsock::kShutdownBoth);
  rig_.send(to_service(Op::rw), "to nobody");  // it has not seen the end yet
  EXPECT_TRUE(rig_.packets().empty());
  rig_.send(to_service(Op::rst));
  EXPECT_EQ(rig_.mux.connections(), 0U);
}

TEST_F(Vsock, WhatAGuestHasSentBeforeItsEndStillArrives) {
  const UniqueFd service = connect();
  std::string sent;
  while (sent.size() < VsockConnection::kBufAlloc) {
    sent.append(16384, static_cast<char>('a' + sent.size() / 16384));
    rig_.send(to_service(Op::rw), sent.substr(sent.size() - 16384));
  }
  shut_down(vsock::kShutdownBoth);
  EXPECT_THAT(ops(rig_.packets()), testing::Contains(Op::rst));
  rig_.host.listening.insert(kService);
  rig_.send(to_service(Op::request));  // the same ports again
  EXPECT_THAT(ops(rig_.packets()), testing::ElementsAre(Op::response));
  std::string read;
  while (read.size() < sent.size()) {
    const std::string more = read_all(service.get());
    ASSERT_FALSE(more.empty());
    read += more;
    rig_.look();
  }
  EXPECT_EQ(read, sent);
  EXPECT_TRUE(at_end(service.get()));
  EXPECT_EQ(rig_.mux.connections(), 1U);
}

TEST_F(Vsock, WhatAGuestHasSentBeforeItsResetStillArrives) {
  const UniqueFd service = connect();
  const std::string sent = use_up_credit();
  const UniqueFd other = connect_from(kGuest + 1);  // which has nothing to be passed on
  rig_.mux.clear();
  EXPECT_EQ(rig_.mux.connections(), 1U);
  EXPECT_TRUE(at_end(other.get()));
  EXPECT_TRUE(rig_.packets().empty());
  std::string read;
  std::thread reader([&] {
    std::array<char, 4096> buffer{};
    pollfd data{service.get(), POLLIN, 0};
    while (read.size() < sent.size() && ::poll(&data, 1, 20'000) == 1) {
      const ssize_t n = ::read(service.get(), buffer.data(), buffer.size());
      if (n <= 0) break;
      read.append(buffer.data(), static_cast<size_t>(n));
    }
  });
  rig_.mux.finish(std::chrono::seconds(20));
  reader.join();
  EXPECT_EQ(read, sent);
  EXPECT_TRUE(at_end(service.get()));
  EXPECT_EQ(rig_.mux.connections(), 0U);
}

TEST_F(Vsock, AHostThatTakesNothingIsWaitedForNoLongerThanThat) {
  const UniqueFd service = connect();
  use_up_credit();
  rig_.mux.clear();
  rig_.mux.finish(std::chrono::milliseconds(1));
  EXPECT_EQ(rig_.mux.connections(), 1U);
}

TEST_F(Vsock, AHostThatIsGoneIsNotWaitedFor) {
  UniqueFd service = connect();
  use_up_credit();
  rig_.mux.clear();
  service.reset();
  rig_.mux.finish(std::chrono::hours(1));
  EXPECT_EQ(rig_.mux.connections(), 0U);
}

TEST_F(Vsock, PacketsThatMakeNoSenseAreResetOrIgnored) {
  const UniqueFd service = connect();
  vsock::Header header = to_service(Op::rw);
  header.src_cid = 43;
  rig_.send(header);
  EXPECT_TRUE(rig_.packets().empty());  // not even known where an answer would go
  for (const uint64_t cid : {uint64_t{0}, uint64_t{1}, uint64_t{43}, ~uint64_t{0}}) {
    header = to_service(Op::request);
    header.dst_cid = cid;
    rig_.send(header);
    const auto packets = rig_.packets();
    ASSERT_THAT(ops(packets), testing::ElementsAre(Op::rst));
    EXPECT_EQ(packets[0].header.src_cid, cid);
  }
  header = to_service(Op::request);
  header.type = 2;  // SEQPACKET, which is not offered
  rig_.send(header);
  EXPECT_THAT(ops(rig_.packets()), testing::ElementsAre(Op::rst));
  for (const Op op : {Op::response, Op::rw, Op::shutdown, Op::credit_update, Op::credit_request}) {
    rig_.send(VsockRig::header(op, 1, 2));  // of a connection that is not there
    EXPECT_THAT(ops(rig_.packets()), testing::ElementsAre(Op::rst));
  }
  rig_.send(VsockRig::header(Op::rst, 1, 2));
  EXPECT_TRUE(rig_.packets().empty());
  EXPECT_EQ(rig_.mux.connections(), 1U);
  rig_.send(to_service(static_cast<Op>(77)));
  EXPECT_THAT(ops(rig_.packets()), testing::ElementsAre(Op::rst));
  EXPECT_EQ(rig_.mux.connections(), 0U);
}

TEST_F(Vsock, ASecondRequestForTheSamePortsResetsThem) {
  const UniqueFd service = connect();
  rig_.send(to_service(Op::request));
  EXPECT_THAT(ops(rig_.packets()), testing::ElementsAre(Op::rst));
  EXPECT_TRUE(at_end(service.get()));
}

TEST_F(Vsock, AGuestThatTakesNoAnswersIsNotServedForEver) {
  unsigned sent = 0;
  for (; rig_.mux.takes_packets(); ++sent) rig_.send(to_service(Op::request));
  EXPECT_LE(sent, VsockMux::kMaxResets);
  EXPECT_EQ(rig_.packets().size(), sent);
  EXPECT_TRUE(rig_.mux.takes_packets());
}

TEST_F(Vsock, AGuestThatOpensAndResetsWithoutLookingTakesNoMemory) {
  rig_.host.listening.insert(kService);
  for (uint32_t i = 0; i < 1000; ++i) {
    rig_.send(to_service(Op::request));
    rig_.send(to_service(Op::rst));
    rig_.host.arrived.clear();
  }
  EXPECT_FALSE(rig_.mux.has_packet());
  EXPECT_EQ(rig_.mux.connections(), 0U);
}

TEST_F(Vsock, ThousandsOfConnectionsInSequenceLeaveNothingBehind) {
  rig_.host.listening.insert(kService);
  const size_t before = open_descriptors();
  for (uint32_t i = 0; i < 4000; ++i) {
    const uint32_t port = i % 50;
    if (i % 2 == 0) {
      rig_.send(VsockRig::header(Op::request, port, kService));
      const UniqueFd service = std::move(rig_.host.arrived.front());
      rig_.host.arrived.pop_front();
      write_all(service.get(), "hello");
    } else {
      const UniqueFd client = rig_.host.client();
      write_all(client.get(), "CONNECT 9\nhello");
    }
    // Each is answered as its guest would: accepted, and reset once the host has gone.
    for (const VsockPacket& packet : rig_.packets()) {
      const Op answer = packet.op() == Op::request ? Op::response : Op::rst;
      if (packet.op() == Op::request || packet.op() == Op::shutdown) {
        rig_.send(VsockRig::header(answer, packet.header.dst_port, packet.header.src_port));
      }
    }
    for (const VsockPacket& packet : rig_.packets()) {
      if (packet.op() != Op::shutdown) continue;
      rig_.send(VsockRig::header(Op::rst, packet.header.dst_port, packet.header.src_port));
    }
    ASSERT_EQ(rig_.mux.connections(), 0U) << "after " << i + 1;
  }
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_FALSE(rig_.mux.has_packet());
}

TEST_F(Vsock, ConnectionsAreBounded) {
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit before = limit;
  if (limit.rlim_max < 4 * VsockMux::kMaxConnections) GTEST_SKIP() << "the host allows too few descriptors";
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 4 * VsockMux::kMaxConnections);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  rig_.host.listening.insert(kService);
  size_t refused = 0;
  for (uint32_t port = 0; port < VsockMux::kMaxConnections + 100; ++port) {
    rig_.send(VsockRig::header(Op::request, port, kService));
    for (const VsockPacket& packet : rig_.packets()) refused += packet.op() == Op::rst ? 1 : 0;
  }
  EXPECT_LE(rig_.mux.connections(), VsockMux::kMaxConnections);
  EXPECT_GE(refused, 100U);
  rig_.mux.clear();
  rig_.host.arrived.clear();
  EXPECT_EQ(rig_.mux.connections(), 0U);
  EXPECT_FALSE(rig_.mux.has_packet());
  ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST_F(Vsock, ManyConnectionsHaveTheirTurns) {
  rig_.host.listening.insert(kService);
  std::vector<UniqueFd> services;
  for (uint32_t port = 1; port <= 8; ++port) {
    rig_.send(VsockRig::header(Op::request, port, kService));
    services.push_back(std::move(rig_.host.arrived.front()));
    rig_.host.arrived.pop_front();
  }
  ASSERT_EQ(rig_.packets().size(), 8U);
  for (const UniqueFd& service : services) write_all(service.get(), std::string(400, 'x'));
  const auto packets = rig_.packets(100);
  ASSERT_EQ(packets.size(), 32U);
  for (size_t i = 8; i < packets.size(); ++i) {
    EXPECT_EQ(packets[i].header.dst_port, packets[i - 8].header.dst_port);
  }
}

}  // namespace
}  // namespace minivmm::test
