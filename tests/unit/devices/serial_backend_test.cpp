// The back ends against real descriptors and a running event loop.
#include "devices/serial_backend.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>

#include "devices/console_escape.h"
#include "tests/temp_folder.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm {
namespace {

using namespace std::chrono_literals;

constexpr auto kDeadline = 20s;
constexpr int kDeadlineMs = 20000;

class FakePort final : public SerialPort {
 public:
  size_t input_room() override {
    const std::scoped_lock lock(mutex_);
    return room_;
  }
  void input(std::span<const std::byte> data) override {
    const std::scoped_lock lock(mutex_);
    EXPECT_LE(data.size(), room_);
    for (const std::byte b : data) received_.push_back(std::to_integer<char>(b));
    room_ -= std::min(data.size(), room_);
    changed_.notify_all();
  }
  void output_drained() override {
    const std::scoped_lock lock(mutex_);
    ++drained_;
    changed_.notify_all();
  }

  void peer_changed() override {
    const std::scoped_lock lock(mutex_);
    ++peer_changes_;
    changed_.notify_all();
  }

  void set_room(size_t room) {
    const std::scoped_lock lock(mutex_);
    room_ = room;
  }
  bool wait_received(size_t count) {
    return wait([&] { return received_.size() >= count; });
  }
  bool wait_peer_changes(int count) {
    return wait([&] { return peer_changes_ >= count; });
  }
  bool wait_drained(int more_than) {
    return wait([&] { return drained_ > more_than; });
  }
  int drained() {
    const std::scoped_lock lock(mutex_);
    return drained_;
  }
  std::string received() {
    const std::scoped_lock lock(mutex_);
    return received_;
  }
  bool wait(const std::function<bool()>& condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kDeadline, condition);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t room_ = SIZE_MAX;
  std::string received_;
  int drained_ = 0;
  int peer_changes_ = 0;
};

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    read = UniqueFd(ends[0]);
    write = UniqueFd(ends[1]);
  }
  UniqueFd read;
  UniqueFd write;
};

std::span<const std::byte> bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string read_exactly(int fd, size_t count) {
  std::string out;
  while (out.size() < count) {
    pollfd p{fd, POLLIN, 0};
    if (::poll(&p, 1, kDeadlineMs) != 1) break;
    std::string buffer(std::min<size_t>(count - out.size(), 65536), '\0');
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n <= 0) break;
    out.append(buffer, 0, static_cast<size_t>(n));
  }
  return out;
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    ASSERT_GT(n, 0);
    text.remove_prefix(static_cast<size_t>(n));
  }
}

std::string pattern(size_t size) {
  std::string out(size, '\0');
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<char>(i * 7 + i / 251);
  return out;
}

class Backend : public testing::Test {
 protected:
  ~Backend() override { stop(); }
  void start() {
    thread_ = std::thread([this] { loop.run(); });
  }
  void stop() {
    if (!thread_.joinable()) return;
    loop.stop();
    thread_.join();
  }
  std::string path(const char* name) { return (folder_.path() / name).string(); }
  // Writes all of `text` as a guest does that waits for room: false if it were to wait for ever.
  bool send(SerialBackend& backend, std::string_view text) {
    while (!text.empty()) {
      const int drained = port.drained();
      text.remove_prefix(fill(backend, text));
      if (!text.empty() && !port.wait_drained(drained)) return false;
    }
    return true;
  }
  // Writes until the back end takes no more; returns how much it took.
  static size_t fill(SerialBackend& backend, std::string_view text) {
    size_t taken = 0;
    while (taken < text.size()) {
      const auto chunk = text.substr(taken, 997);
      const size_t n = backend.write(bytes(chunk));
      taken += n;
      if (n < chunk.size()) break;
    }
    return taken;
  }
  static UniqueFd dial(const std::string& path) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }

  Log log;
  EventLoop loop;
  FakePort port;

 private:
  std::thread thread_;
  test::TempFolder folder_;
};

TEST_F(Backend, NullTakesEverythingAndGivesNothing) {
  auto backend = make_null_serial();
  backend->connect(&port);
  EXPECT_EQ(backend->write(bytes("gone")), 4U);
  backend->flush();
  EXPECT_EQ(port.received(), "");
}

TEST_F(Backend, WritesSingleBytesInOrderWithoutBeingAsked) {
  const Pipe out;
  auto backend = make_fd_serial(loop, log, -1, out.write.get());
  backend->connect(&port);
  start();
  const std::string text = pattern(10000);
  for (const char c : text) ASSERT_EQ(backend->write(bytes({&c, 1})), 1U);
  EXPECT_EQ(read_exactly(out.read.get(), text.size()), text);
  stop();
}

TEST_F(Backend, LeavesTheCallersDescriptorFlagsAlone) {
  const Pipe in;
  const Pipe out;
  auto backend = make_fd_serial(loop, log, in.read.get(), out.write.get());
  EXPECT_EQ(::fcntl(out.write.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(in.read.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(Backend, BoundsOutputToAReaderThatDoesNotReadAndLosesNone) {
  const Pipe out;
  auto backend = make_fd_serial(loop, log, -1, out.write.get());
  backend->connect(&port);
  start();
  const std::string text = pattern(4 << 20);
  size_t sent = 0;
  size_t received = 0;
  while (received < text.size()) {
    const int drained = port.drained();
    sent += fill(*backend, std::string_view(text).substr(sent));
    ASSERT_LE(sent - received, 400U << 10) << "held back: two buffers here and the pipe";
    const std::string got = read_exactly(out.read.get(), sent - received);
    ASSERT_EQ(got, text.substr(received, got.size()));
    received += got.size();
    ASSERT_EQ(received, sent);
    if (sent < text.size()) {
      ASSERT_TRUE(port.wait_drained(drained));
    }
  }
  stop();
}

TEST_F(Backend, LosesOutputToAReaderThatSleepsWhereItMayNotHoldTheGuest) {
  const Pipe out;
  auto backend = make_fd_serial(loop, log, -1, out.write.get(), {}, SlowReader::loses_output);
  backend->connect(&port);
  start();
  ASSERT_TRUE(send(*backend, std::string(1 << 20, 'x'))) << "it waits a second, then the oldest goes";
  backend->write(bytes("NEWEST"));
  std::string got;
  while (got.find("NEWEST") == std::string::npos) {
    const std::string one = read_exactly(out.read.get(), 1);
    ASSERT_EQ(one.size(), 1U);
    got += one;
  }
  EXPECT_LE(got.size(), 256U << 10);
  stop();
}

TEST_F(Backend, FlushesWithTheLoopStopped) {
  const Pipe out;
  auto backend = make_fd_serial(loop, log, -1, out.write.get());
  backend->write(bytes("last words"));
  backend->flush();
  EXPECT_EQ(read_exactly(out.read.get(), 10), "last words");
  backend->write(bytes("and more"));
  backend.reset();
  EXPECT_EQ(read_exactly(out.read.get(), 8), "and more");
}

TEST_F(Backend, OutlivesItsReader) {
  Pipe out;
  auto backend = make_fd_serial(loop, log, -1, out.write.get());
  out.read.reset();
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(backend->write(bytes(std::string(10000, 'x'))), 10000U);
    backend->flush();
  }
}

TEST_F(Backend, BringsAMebibyteOfInputIntactToASlowPort) {
  const Pipe in;
  auto backend = make_fd_serial(loop, log, in.read.get(), -1);
  port.set_room(0);
  backend->connect(&port);
  start();
  const std::string text = pattern(1 << 20);
  std::thread writer([&] { write_all(in.write.get(), text); });
  while (port.received().size() < text.size()) {
    const size_t want = std::min<size_t>(port.received().size() + 4001, text.size());
    port.set_room(want - port.received().size());
    backend->resume_input();
    ASSERT_TRUE(port.wait_received(want));
  }
  writer.join();
  EXPECT_EQ(port.received(), text);
  stop();
}

TEST_F(Backend, TakesTheEndOfInputForNoError) {
  Pipe in;
  const Pipe out;
  auto backend = make_fd_serial(loop, log, in.read.get(), out.write.get());
  backend->connect(&port);
  write_all(in.write.get(), "bye");
  in.write.reset();
  start();
  ASSERT_TRUE(port.wait_received(3));
  backend->resume_input();
  backend->write(bytes("still here"));
  EXPECT_EQ(read_exactly(out.read.get(), 10), "still here");
  stop();
}

TEST_F(Backend, ReadsInputFromAFile) {
  const std::string name = path("input");
  std::ofstream(name) << pattern(5000);
  const UniqueFd file(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  auto backend = make_fd_serial(loop, log, file.get(), -1);
  backend->connect(&port);
  start();
  ASSERT_TRUE(port.wait_received(5000));
  EXPECT_EQ(port.received(), pattern(5000));
  stop();
}

TEST_F(Backend, SeesEscapeKeysOfATerminalWhoseGuestTakesNothing) {
  const UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_EQ(::grantpt(master.get()), 0);
  ASSERT_EQ(::unlockpt(master.get()), 0);
  std::array<char, 128> name{};
  ASSERT_EQ(::ptsname_r(master.get(), name.data(), name.size()), 0);
  const UniqueFd terminal(::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  port.set_room(0);
  FakePort done;
  ConsoleEscape keys([&] { done.input(bytes("q")); }, [] {});
  auto backend = make_fd_serial(loop, log, terminal.get(), -1,
                                [&](std::span<std::byte> data) { return keys.filter(data); });
  backend->connect(&port);
  start();
  write_all(master.get(), std::string(1000, 'k') + "\n\x01x\n");
  EXPECT_TRUE(done.wait_received(1));
  stop();
}

TEST_F(Backend, WritesAFile) {
  const std::string name = path("console.log");
  auto backend = make_file_serial(loop, log, name);
  backend->connect(&port);
  start();
  const std::string text = pattern(300000);
  ASSERT_TRUE(send(*backend, text));
  stop();
  backend->flush();
  std::ifstream file(name, std::ios::binary);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), text);
}

TEST_F(Backend, NamesTheFileItCannotOpen) {
  try {
    make_file_serial(loop, log, "/nonexistent/console.log");
    FAIL();
  } catch (const HostError& e) {
    EXPECT_NE(std::string_view(e.what()).find("/nonexistent/console.log"), std::string_view::npos);
  }
}

TEST_F(Backend, DoesNotStopAGuestForAFullDisk) {
  auto backend = make_file_serial(loop, log, "/dev/full");
  backend->connect(&port);
  start();
  const std::string text = pattern(1 << 20);
  ASSERT_TRUE(send(*backend, text));
  stop();
}

TEST_F(Backend, TalksOverAPty) {
  std::string name;
  auto backend = make_pty_serial(loop, log, name);
  backend->connect(&port);
  start();
  const UniqueFd client(::open(name.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_TRUE(client);
  backend->write(bytes("login: \r\n"));
  EXPECT_EQ(read_exactly(client.get(), 9), "login: \r\n");
  write_all(client.get(), "root\r");
  ASSERT_TRUE(port.wait_received(5));
  EXPECT_EQ(port.received(), "root\r") << "raw: no echo, no translation";
  stop();
}

TEST_F(Backend, DoesNotStopAGuestWhosePtyNobodyReads) {
  std::string name;
  auto backend = make_pty_serial(loop, log, name);
  backend->connect(&port);
  start();
  const std::string text(20 << 20, 'x');
  ASSERT_TRUE(send(*backend, text)) << "it waits a second for a reader, then the oldest goes";
  backend->write(bytes("NEWEST"));
  const UniqueFd client(::open(name.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  std::string got;
  while (got.find("NEWEST") == std::string::npos) {
    const std::string one = read_exactly(client.get(), 1);
    ASSERT_EQ(one.size(), 1U);
    got += one;
  }
  EXPECT_LE(got.size(), 256U << 10);
  stop();
}

TEST_F(Backend, ServesOneSocketClientAfterAnother) {
  const std::string name = path("serial.sock");
  auto backend = make_socket_serial(loop, log, name);
  backend->connect(&port);
  start();
  UniqueFd first = dial(name);
  backend->write(bytes("one"));
  EXPECT_EQ(read_exactly(first.get(), 3), "one");
  UniqueFd second = dial(name);
  write_all(second.get(), "B");
  write_all(first.get(), "A");
  ASSERT_TRUE(port.wait_received(1));
  EXPECT_EQ(port.received(), "A") << "the second has to wait";
  first.reset();
  ASSERT_TRUE(port.wait_received(2));
  EXPECT_EQ(port.received(), "AB");
  backend->write(bytes("two"));
  EXPECT_EQ(read_exactly(second.get(), 3), "two");
  stop();
}

TEST_F(Backend, TellsWhetherSomebodyIsAtTheSocket) {
  const std::string name = path("serial.sock");
  auto backend = make_socket_serial(loop, log, name);
  backend->connect(&port);
  start();
  EXPECT_FALSE(backend->has_peer());
  UniqueFd client = dial(name);
  ASSERT_TRUE(port.wait_peer_changes(1));
  EXPECT_TRUE(backend->has_peer());
  client.reset();
  ASSERT_TRUE(port.wait_peer_changes(2));
  EXPECT_FALSE(backend->has_peer());
  EXPECT_TRUE(make_null_serial()->has_peer());  // nobody can tell
  stop();
}

TEST_F(Backend, KeepsTheNewestOutputForTheNextSocketClient) {
  const std::string name = path("serial.sock");
  auto backend = make_socket_serial(loop, log, name);
  backend->connect(&port);
  start();
  const std::string text(1 << 20, 'x');
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(fill(*backend, text), text.size()) << "no reader, no waiting";
  }
  backend->write(bytes("NEWEST"));
  const UniqueFd client = dial(name);
  std::string got;
  while (got.find("NEWEST") == std::string::npos) {
    const std::string one = read_exactly(client.get(), 1);
    ASSERT_EQ(one.size(), 1U);
    got += one;
  }
  EXPECT_LE(got.size(), 128U << 10);
  stop();
}

TEST_F(Backend, DoesNotStopAGuestWhoseSocketClientFallsAsleep) {
  const std::string name = path("serial.sock");
  auto backend = make_socket_serial(loop, log, name);
  backend->connect(&port);
  start();
  const UniqueFd client = dial(name);
  backend->write(bytes("hi"));
  EXPECT_EQ(read_exactly(client.get(), 2), "hi");
  ASSERT_TRUE(send(*backend, std::string(20 << 20, 'x')));
  stop();
}

TEST_F(Backend, StillWritesToAClientThatEndedItsInput) {
  const std::string name = path("serial.sock");
  auto backend = make_socket_serial(loop, log, name);
  backend->connect(&port);
  start();
  const UniqueFd first = dial(name);
  write_all(first.get(), "q");
  ASSERT_EQ(::shutdown(first.get(), SHUT_WR), 0);
  ASSERT_TRUE(port.wait_received(1));
  backend->write(bytes("answer"));
  EXPECT_EQ(read_exactly(first.get(), 6), "answer");
  const UniqueFd second = dial(name);
  write_all(second.get(), "r");
  ASSERT_TRUE(port.wait_received(2)) << "and does not keep others out for it";
  stop();
}

TEST_F(Backend, ReplacesAStaleSocketButNotALiveOne) {
  const std::string name = path("serial.sock");
  {
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_TRUE(dead);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.data(), name.size());
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  auto backend = make_socket_serial(loop, log, name);
  EXPECT_THROW(make_socket_serial(loop, log, name), HostError);
  backend.reset();
  EXPECT_NE(::access(name.c_str(), F_OK), 0);
  std::ofstream(name) << "precious";
  EXPECT_THROW(make_socket_serial(loop, log, name), HostError);
  EXPECT_EQ(::access(name.c_str(), F_OK), 0);
  EXPECT_THROW(make_socket_serial(loop, log, std::string(200, 'x')), HostError);
}

}  // namespace
}  // namespace minivmm
