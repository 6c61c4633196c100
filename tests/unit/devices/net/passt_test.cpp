#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>

#include "devices/block/foreign/child_process.h"
#include "devices/net/open_net.h"
#include "tests/temp_folder.h"
#include "tests/unit/devices/net/frames.h"
#include "vmm/core/error.h"

namespace minivmm {
namespace {

using namespace test;

Bytes with_length(const Bytes& packet) {
  Bytes out(4);
  for (size_t i = 0; i < 4; ++i) out[i] = static_cast<std::byte>(packet.size() >> (24 - 8 * i) & 0xff);
  out.insert(out.end(), packet.begin(), packet.end());
  return out;
}

// Its end of the stream, as the test plays it.
class FakePasst {
 public:
  explicit FakePasst(std::string path) : path_(std::move(path)) { listen(); }
  void listen() {
    listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(listener_.get(), 1), 0);
  }
  void accept() {
    pollfd look{listener_.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&look, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())), 1);
    stream_ = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(stream_);
  }
  void die() {
    stream_.reset();
    listener_.reset();
    ::unlink(path_.c_str());
  }
  void say(const Bytes& bytes) {
    ASSERT_EQ(::send(stream_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  Bytes hear(size_t size) {
    Bytes bytes(size);
    EXPECT_EQ(::recv(stream_.get(), bytes.data(), size, MSG_WAITALL), static_cast<ssize_t>(size));
    return bytes;
  }

 private:
  std::string path_;
  UniqueFd listener_;
  UniqueFd stream_;
};

class Passt : public testing::Test {
 protected:
  std::unique_ptr<NetBackend> open(const std::string& text) {
    return open_net(parse_net_spec(text), NetContext{.machine = "test", .log = log_, .time = loop_});
  }
  std::unique_ptr<NetBackend> open() {
    auto net = open("passt,socket=" + path_);
    passt_.accept();
    return net;
  }

  Log log_;
  EventLoop loop_;
  TempFolder folder_;
  std::string path_ = (folder_.path() / "passt.socket").string();
  FakePasst passt_{path_};
};

TEST_F(Passt, FramesGoBothWays) {
  const auto net = open();
  NetQueue& queue = net->queue(0);
  const Waiter waiter(queue);
  const Bytes frame = make_frame(mac(1), mac(2), 1500, 3);
  ASSERT_TRUE(went_out(send(queue, frame)));
  EXPECT_EQ(passt_.hear(4 + frame.size() - kNetHeaderSize), with_length(packet_of(frame)));
  passt_.say(with_length(packet_of(frame)));
  const auto heard = receive_frame(queue, waiter);
  ASSERT_TRUE(heard);
  EXPECT_EQ(packet_of(*heard), packet_of(frame));
}

TEST_F(Passt, AFrameThatComesInPartsIsPutTogether) {
  const auto net = open();
  const Waiter waiter(net->queue(0));
  const Bytes frame = make_frame(mac(1), mac(2), 300, 4);
  Bytes twice = with_length(packet_of(frame));
  const Bytes once = twice;
  twice.insert(twice.end(), once.begin(), once.end());
  constexpr ptrdiff_t kPart = 50;  // neither frame ends with one
  for (auto at = twice.begin(); at != twice.end();) {
    const auto end = std::min(at + kPart, twice.end());
    passt_.say(Bytes(at, end));
    if (at == twice.begin()) {
      EXPECT_TRUE(receive_now(net->queue(0))->empty());
    }
    at = end;
  }
  for (int i = 0; i < 2; ++i) {
    const auto heard = receive_frame(net->queue(0), waiter);
    ASSERT_TRUE(heard);
    EXPECT_EQ(packet_of(*heard), packet_of(frame));
  }
}

TEST_F(Passt, WhenItEndsTheLinkIsDownUntilItIsBack) {
  const auto net = open();
  NetQueue& queue = net->queue(0);
  const Waiter waiter(queue);
  std::atomic<int> changes = 0;
  net->watch_link([&] { ++changes; });
  EXPECT_TRUE(net->link_up());
  passt_.die();
  ASSERT_TRUE(waiter.wait());
  EXPECT_EQ(receive_now(queue).error().code, Errc::closed);
  EXPECT_FALSE(net->link_up());
  EXPECT_EQ(changes, 1);
  EXPECT_EQ(send(queue, make_frame(mac(1), mac(2))).error().code, Errc::closed);

  passt_.listen();
  while (!net->link_up()) {
    ASSERT_TRUE(waiter.wait()) << "it is tried again";
    static_cast<void>(receive_now(queue));
  }
  EXPECT_EQ(changes, 2);
  passt_.accept();
  const Bytes frame = make_frame(mac(1), mac(2));
  passt_.say(with_length(packet_of(frame)));
  EXPECT_TRUE(receive_frame(queue, waiter));
  net->watch_link({});
}

TEST_F(Passt, ALengthThatNoFrameHasEndsTheConnection) {
  for (const uint32_t length : {0u, 13u, 65'554u, 0xffffffffu}) {
    const auto net = open();
    const Waiter waiter(net->queue(0));
    Bytes nonsense(100);
    for (size_t i = 0; i < 4; ++i) nonsense[i] = static_cast<std::byte>(length >> (24 - 8 * i) & 0xff);
    passt_.say(nonsense);
    EXPECT_EQ(receive_now(net->queue(0)).error().code, Errc::closed) << length;
    EXPECT_FALSE(net->link_up());
  }
}

TEST_F(Passt, AFullStreamHoldsTheSenderAndLosesNothing) {
  const auto net = open();
  NetQueue& queue = net->queue(0);
  const Waiter waiter(queue);
  constexpr size_t kFrames = 400;
  constexpr size_t kSize = 20'000;
  std::jthread reader;
  bool held = false;
  for (size_t i = 0; i < kFrames; ++i) {
    const Bytes frame = make_frame(mac(1), mac(2), kSize, static_cast<uint8_t>(i));
    for (auto sent = send(queue, frame, 1000); !*sent; sent = send(queue, frame, 1000)) {
      if (!std::exchange(held, true)) {
        reader = std::jthread([this] {
          for (size_t k = 0; k < kFrames; ++k) {
            const Bytes bytes = passt_.hear(4 + 14 + kSize);
            ASSERT_EQ(bytes.back(), static_cast<std::byte>(k & 0xff));
            ASSERT_EQ(bytes[18], static_cast<std::byte>(k & 0xff));
          }
        });
      }
      ASSERT_TRUE(waiter.wait());
    }
  }
  // A last part that the socket did not take goes when there is room.
  while (reader.joinable()) {
    queue.flush();
    if (!waiter.wait(std::chrono::milliseconds(100))) reader.join();
  }
  EXPECT_TRUE(held);
}

TEST_F(Passt, NobodyAtTheSocketIsToldWithWhatMendsIt) {
  try {
    open("passt,socket=" + path_ + "-none");
    FAIL();
  } catch (const HostError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("passt --socket"));
  }
}

// The real one: it answers a guest's ARP question for any address that is not the guest's.
TEST_F(Passt, TheInstalledOneIsStartedAndAnswers) {
  if (find_program("passt").empty()) GTEST_SKIP() << "needs passt, Debian's package of that name";
  const auto net = open("passt");
  NetQueue& queue = net->queue(0);
  const Waiter waiter(queue);
  Bytes question = make_frame(kBroadcast, mac(1), 46);
  const std::array<uint8_t, 28> arp{0,   1,   8, 0, 6, 4, 0, 1, 0x52, 0x54, 0,   0,   0, 1,
                                    169, 254, 2, 1, 0, 0, 0, 0, 0,    0,    169, 254, 2, 2};
  question[kNetHeaderSize + 12] = std::byte{0x08};
  question[kNetHeaderSize + 13] = std::byte{0x06};
  for (size_t i = 0; i < arp.size(); ++i) question[kNetHeaderSize + 14 + i] = std::byte{arp[i]};
  ASSERT_TRUE(went_out(send(queue, question)));
  const auto answer = receive_if(queue, waiter, [](const Bytes& frame) {
    return frame[kNetHeaderSize + 12] == std::byte{8} && frame[kNetHeaderSize + 13] == std::byte{6};
  });
  ASSERT_TRUE(answer) << "link " << net->link_up();
  EXPECT_EQ((*answer)[kNetHeaderSize + 14 + 7], std::byte{2}) << "a reply";
}

}  // namespace
}  // namespace minivmm
