// Servers that answer what they like, or not at all.
#include <gtest/gtest.h>

#include <array>
#include <condition_variable>
#include <mutex>

#include "devices/block/nbd/nbd_disk.h"
#include "tests/unit/devices/nbd_fixture.h"
#include "vmm/core/queue_worker.h"

namespace minivmm::test {
namespace {

using Server = ScriptedNbdServer;
using Request = ScriptedNbdServer::Request;
using std::chrono::milliseconds;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint16_t kWritable =
    Server::has_flags | Server::send_flush | Server::send_trim | Server::send_zeroes;

// What the server was sent.
class Seen {
 public:
  void add(const Request& request) {
    const std::scoped_lock lock(mutex_);
    requests_.push_back(request);
    changed_.notify_all();
  }
  // Waits for it.
  Request at(size_t index) {
    std::unique_lock lock(mutex_);
    const bool came =
        changed_.wait_for(lock, std::chrono::seconds(30), [&] { return requests_.size() > index; });
    EXPECT_TRUE(came) << "request " << index;
    return came ? requests_[index] : Request{};
  }
  size_t count() {
    const std::scoped_lock lock(mutex_);
    return requests_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Request> requests_;
};

class HostileNbd : public NbdTest {
 protected:
  static std::unique_ptr<NbdDisk> connect(Server& server, milliseconds patience = milliseconds(60'000)) {
    return NbdDisk::connect(server.take_client(), "test",
                            {.connect_limit = milliseconds(30'000), .patience = patience});
  }
  static bool never(Server& /*server*/, const Request& /*request*/) { return false; }
};

TEST_F(HostileNbd, SizesThatCannotBeAreRefused) {
  for (const uint64_t size : {uint64_t{0}, uint64_t{511}, uint64_t{1} << 63, ~uint64_t{0}}) {
    Server server(size, Server::has_flags, never);
    const std::string what = error_of([&] { connect(server); });
    expect_one_line(what, "cannot use the disk test");
  }
}

TEST_F(HostileNbd, ALastPartOfASectorIsNotSeen) {
  Server server(1300, Server::has_flags, never);
  EXPECT_EQ(connect(server)->capacity(), 1024);
}

TEST_F(HostileNbd, AServerThatEndsInTheMiddleOfARequestEndsIt) {
  Server server(kMiB, kWritable, never);
  const auto disk = connect(server);
  EXPECT_EQ(read(*disk, 0, 4096).error().code, Errc::io);
  EXPECT_EQ(write(*disk, 0, std::string(512, 'a')).error().code, Errc::io);
}

TEST_F(HostileNbd, AnAnswerThatIsCutShortIsAnError) {
  Server server(kMiB, kWritable, [](Server& s, const Request& r) {
    s.reply(r.cookie, 0, std::string(100, 'x'));
    return false;
  });
  EXPECT_EQ(read(*connect(server), 0, 4096).error().code, Errc::io);
}

TEST_F(HostileNbd, AnswersToNothingAndGarbageEndTheConnection) {
  for (const bool garbage : {false, true}) {
    Server server(kMiB, kWritable, [garbage](Server& s, const Request& r) {
      if (garbage) {
        s.send(std::string(4096, '\xa5'));
      } else {
        s.reply(r.cookie + 1000, 0, std::string(r.length, 'x'));
      }
      return true;
    });
    EXPECT_EQ(read(*connect(server), 0, 4096).error().code, Errc::io);
  }
}

TEST_F(HostileNbd, AServerThatNeverAnswersIsGivenUpWhenTheQueueStops) {
  Seen seen;
  Server server(kMiB, kWritable, [&](Server& s, const Request& r) {
    seen.add(r);
    // The answer comes after all, when nobody waits for it any more.
    if (seen.count() == 2) s.reply(seen.at(0).cookie, 0, std::string(4096, 'x'));
    if (seen.count() == 2) s.reply(r.cookie, 0, std::string(512, 'y'));
    return true;
  });
  const auto disk = connect(server);
  const EventFd kick;
  std::string bytes(4096, '?');
  const iovec piece{bytes.data(), bytes.size()};
  std::optional<Result<void>> result;
  auto worker = QueueWorker::start("test", kick, {}, [&](unsigned, const StopFlag& stop) {
    const auto engine = IoEngine::create();
    result = engine->run(
        disk->run(*engine, {.op = BlockOp::read, .length = 4096, .data = {&piece, 1}, .stop = &stop}));
  });
  seen.at(0);
  worker.value()->stop();
  ASSERT_TRUE(result && !*result);
  EXPECT_EQ(result->error().code, Errc::closed);
  EXPECT_EQ(read(*disk, 0, 512).value(), std::string(512, 'y')) << "the connection goes on";
  EXPECT_EQ(bytes, std::string(4096, '?')) << "the late answer goes nowhere";
}

// Else the late write would undo the later one.
TEST_F(HostileNbd, AWriteThatWasGivenUpIsNotOvertakenByOneToTheSamePlace) {
  Seen seen;
  Server server(kMiB, kWritable, [&](Server& s, const Request& r) {
    seen.add(r);
    if (r.type == Server::write && r.data[0] == 'a') return true;  // not answered yet
    if (r.type == Server::read) s.reply(seen.at(0).cookie);        // but now
    s.reply(r.cookie, 0, r.type == Server::read ? std::string(r.length, 'z') : "");
    return true;
  });
  const auto disk = connect(server, milliseconds(200));
  EXPECT_EQ(write(*disk, 0, std::string(1024, 'a')).error().code, Errc::io);
  EXPECT_TRUE(write(*disk, 4096, std::string(512, 'c'))) << "elsewhere";
  EXPECT_EQ(write(*disk, 512, std::string(512, 'b')).error().code, Errc::io) << "waits, and was never sent";
  EXPECT_TRUE(read(*disk, 8192, 512));
  EXPECT_TRUE(write(*disk, 512, std::string(512, 'd')));
  EXPECT_EQ(seen.at(1).data[0], 'c');
  EXPECT_EQ(seen.at(2).type, Server::read);
  EXPECT_EQ(seen.at(3).data[0], 'd');
}

TEST_F(HostileNbd, SpaceIsKeptUnlessTheGuestLetsItGo) {
  Seen seen;
  Server server(kMiB, kWritable, [&](Server& s, const Request& r) {
    seen.add(r);
    s.reply(r.cookie);
    return true;
  });
  const auto disk = connect(server);
  EXPECT_TRUE(run(*disk, {.op = BlockOp::write_zeroes, .length = 512}));
  EXPECT_TRUE(run(*disk, {.op = BlockOp::write_zeroes, .length = 512, .may_unmap = true}));
  EXPECT_TRUE(run(*disk, {.op = BlockOp::discard, .length = 512}));
  constexpr uint16_t kNoHole = 2;
  EXPECT_EQ(seen.at(0).type, Server::zero);
  EXPECT_EQ(seen.at(0).flags, kNoHole);
  EXPECT_EQ(seen.at(1).flags, 0);
  EXPECT_EQ(seen.at(2).type, Server::trim);
}

TEST_F(HostileNbd, EveryErrorNumberIsAnError) {
  Seen seen;
  constexpr std::array<uint32_t, 8> kErrors{1, 5, 12, 22, 28, 75, 95, 0xffff'ffff};  // NBD: "Error values"
  Server server(kMiB, kWritable, [&](Server& s, const Request& r) {
    s.reply(r.cookie, kErrors.at(seen.count() % kErrors.size()));
    seen.add(r);
    return true;
  });
  const auto disk = connect(server);
  for (const uint32_t error : kErrors) {
    const auto result = read(*disk, 0, 512);
    ASSERT_FALSE(result) << error;
    EXPECT_EQ(result.error().code, error == 28   ? Errc::no_space
                                   : error == 95 ? Errc::unsupported
                                                 : Errc::io)
        << error;
  }
}

TEST_F(HostileNbd, AServerThatIsShuttingDownIsGone) {
  Server server(kMiB, kWritable, [](Server& s, const Request& r) {
    s.reply(r.cookie, 108);  // NBD_ESHUTDOWN
    return true;
  });
  EXPECT_EQ(read(*connect(server), 0, 512).error().code, Errc::io);
}

TEST_F(HostileNbd, AHandshakeThatNeverEndsIsGivenUp) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  const UniqueFd server(ends[1]);
  const std::string what =
      error_of([&] { NbdDisk::connect(UniqueFd(ends[0]), "test", {.connect_limit = milliseconds(100)}); });
  expect_one_line(what, "does not answer");
}

}  // namespace
}  // namespace minivmm::test
