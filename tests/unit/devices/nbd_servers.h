// NBD servers for tests: real ones, and one that answers as it is told.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "devices/block/foreign/child_process.h"
#include "tests/temp_folder.h"
#include "vmm/core/fd.h"

namespace minivmm::test {

// nbdkit(1) on a Unix socket, which outlives it: a client that connects while there is no server waits.
class NbdkitServer {
 public:
  explicit NbdkitServer(std::vector<std::string> arguments) : arguments_(std::move(arguments)) {
    const std::string path = socket_path();
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    if (::bind(listening_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(listening_.get(), 16) != 0) {
      throw_errno("listen on " + path);
    }
    start();
  }
  // On a socket that listens already, of any kind; uri() is not its address then.
  NbdkitServer(std::vector<std::string> arguments, UniqueFd listening)
      : arguments_(std::move(arguments)), listening_(std::move(listening)) {
    start();
  }
  ~NbdkitServer() { kill(); }

  static bool installed() { return !find_program("nbdkit").empty(); }
  std::string uri() const { return "nbd+unix:///?socket=" + socket_path(); }
  // All its threads have stopped when this returns.
  void stop() const {
    ::kill(server_->pid(), SIGSTOP);
    siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(server_->pid()), &info, WSTOPPED | WNOWAIT);
  }
  void kill() {
    if (server_) ::kill(server_->pid(), SIGKILL);
    server_.reset();
  }
  void start() {
    std::vector<std::string> command{find_program("nbdkit"), "--foreground"};
    command.insert(command.end(), arguments_.begin(), arguments_.end());
    server_ = std::make_unique<ChildProcess>(ChildProcess::Plan{
        .command = std::move(command), .environment = {"LISTEN_FDS=1"}, .descriptors = {listening_.get()}});
  }

 private:
  std::string socket_path() const { return (folder_.path() / "nbd").string(); }

  TempFolder folder_;
  std::vector<std::string> arguments_;
  UniqueFd listening_{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  std::unique_ptr<ChildProcess> server_;
};

// Negotiates the least that there is (fixed newstyle, no structured replies), then leaves each request to the
// test.
class ScriptedNbdServer {
 public:
  enum : uint16_t { has_flags = 1, read_only = 2, send_flush = 4, send_trim = 32, send_zeroes = 64 };
  enum : uint16_t { read = 0, write = 1, disconnect = 2, flush = 3, trim = 4, zero = 6 };
  struct Request {
    uint16_t flags = 0;
    uint16_t type = 0;
    uint64_t cookie = 0;
    uint64_t offset = 0;
    uint32_t length = 0;
    std::string data = {};
  };
  // False ends the connection.
  using Serve = std::function<bool(ScriptedNbdServer&, const Request&)>;

  ScriptedNbdServer(uint64_t size, uint16_t flags, Serve serve) : serve_(std::move(serve)) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0)
      throw_errno("make a socket pair");
    client_ = UniqueFd(ends[0]);
    server_ = UniqueFd(ends[1]);
    thread_ = std::thread([this, size, flags] {
      if (negotiate(size, flags)) transmit();
      ::shutdown(server_.get(), SHUT_RDWR);
    });
  }
  ~ScriptedNbdServer() {
    ::shutdown(server_.get(), SHUT_RDWR);
    thread_.join();
  }

  UniqueFd take_client() { return std::move(client_); }
  void reply(uint64_t cookie, uint32_t error = 0, const std::string& data = "") {
    send(be(uint32_t{0x67446698}) + be(error) + be(cookie) + data);
  }
  void send(const std::string& bytes) const {
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t count = ::send(server_.get(), bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (count <= 0) return;
      done += static_cast<size_t>(count);
    }
  }

 private:
  template <class T>
  static std::string be(T value) {
    std::string out(sizeof(T), '\0');
    for (size_t i = sizeof(T); i-- > 0; value = static_cast<T>(value / 256))
      out[i] = static_cast<char>(value % 256);
    return out;
  }
  bool receive(std::string& bytes) const {
    return bytes.empty() || ::recv(server_.get(), bytes.data(), bytes.size(), MSG_WAITALL) ==
                                static_cast<ssize_t>(bytes.size());
  }
  template <class T>
  bool receive(T& value) const {
    std::string bytes(sizeof(T), '\0');
    if (!receive(bytes)) return false;
    value = 0;
    for (const char c : bytes) value = static_cast<T>(value * 256 + static_cast<unsigned char>(c));
    return true;
  }
  bool negotiate(uint64_t size, uint16_t flags) const {
    send("NBDMAGICIHAVEOPT" + be(uint16_t{3}));
    uint32_t client_flags = 0;
    if (!receive(client_flags)) return false;
    for (;;) {
      uint64_t magic = 0;
      uint32_t option = 0;
      uint32_t length = 0;
      if (!receive(magic) || !receive(option) || !receive(length)) return false;
      std::string data(length, '\0');
      if (!receive(data)) return false;
      const auto answer = [&](uint32_t type, const std::string& payload) {
        send(be(uint64_t{0x3e889045565a9}) + be(option) + be(type) +
             be(static_cast<uint32_t>(payload.size())) + payload);
      };
      constexpr uint32_t kGo = 7;
      if (option != kGo) {
        answer(0x80000001U, "");  // NBD_REP_ERR_UNSUP
        continue;
      }
      answer(3, be(uint16_t{0}) + be(size) + be(flags));  // NBD_REP_INFO, NBD_INFO_EXPORT
      answer(1, "");                                      // NBD_REP_ACK
      return true;
    }
  }
  void transmit() {
    for (;;) {
      uint32_t magic = 0;
      Request r;
      if (!receive(magic) || !receive(r.flags) || !receive(r.type) || !receive(r.cookie) ||
          !receive(r.offset) || !receive(r.length)) {
        return;
      }
      if (r.type == write) {
        r.data.resize(r.length);
        if (!receive(r.data)) return;
      }
      if (r.type == disconnect || !serve_(*this, r)) return;
    }
  }

  Serve serve_;
  UniqueFd client_;
  UniqueFd server_;
  std::thread thread_;
};

}  // namespace minivmm::test
