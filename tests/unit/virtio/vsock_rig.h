// A socket device's packets without queues or a thread: a test is the guest, and both ends of the host's
// sockets.
#pragma once

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "virtio/device/vsock_mux.h"

namespace minivmm::test {

// Programs of the host, made of socket pairs: one end is the device's, the other the test's.
class FakeVsockHost final : public VsockHost {
 public:
  Result<UniqueFd> connect(uint32_t port) override {
    if (!listening.contains(port)) return fail(Errc::closed, "nobody listens");
    auto [ours, theirs] = pair();
    arrived.push_back(std::move(theirs));
    return std::move(ours);
  }
  int listener() const override { return -1; }
  Result<UniqueFd> accept() override {
    if (waiting_.empty()) return fail(Errc::io, "nobody waits");
    UniqueFd fd = std::move(waiting_.front());
    waiting_.pop_front();
    return fd;
  }
  // A program that connects; accept() then has its other end.
  UniqueFd client() {
    auto [ours, theirs] = pair();
    waiting_.push_back(std::move(ours));
    return std::move(theirs);
  }

  std::set<uint32_t> listening;
  std::deque<UniqueFd> arrived;  // the listeners' ends of the guest's connections

 private:
  static std::pair<UniqueFd, UniqueFd> pair() {
    std::array<int, 2> fds{};
    MV_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds.data()) == 0);
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
  }
  std::deque<UniqueFd> waiting_;
};

struct VsockPacket {
  vsock::Header header{};
  std::string data;
  vsock::Op op() const { return static_cast<vsock::Op>(header.op); }
};

class VsockRig {
 public:
  static constexpr uint64_t kCid = 42;
  static constexpr uint32_t kGuestSpace = 1U << 20;

  VsockRig() { mux.set_guest_cid(kCid); }

  static vsock::Header header(vsock::Op op, uint32_t guest_port, uint32_t host_port) {
    return {.src_cid = kCid,
            .dst_cid = vsock::kHostCid,
            .src_port = guest_port,
            .dst_port = host_port,
            .len = 0,
            .type = vsock::kTypeStream,
            .op = static_cast<uint16_t>(op),
            .flags = 0,
            .buf_alloc = kGuestSpace,
            .fwd_cnt = 0};
  }
  void send(vsock::Header h, std::string data = {}) {
    h.len = static_cast<uint32_t>(data.size());
    const iovec piece{data.data(), data.size()};
    mux.from_guest(h, std::span(&piece, data.empty() ? 0U : 1U));
  }
  // Lets the host's sockets report what has happened.
  void look() {
    mux.accept();
    std::array<epoll_event, 64> events{};
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
    for (int i = 0; i < count; ++i) {
      mux.ready(events[static_cast<size_t>(i)].data.u64, events[static_cast<size_t>(i)].events);
    }
  }
  // All that the guest gets now.
  std::vector<VsockPacket> packets(size_t room = 4096) {
    look();
    std::vector<VsockPacket> out;
    std::string space(room, '\0');
    const iovec piece{space.data(), space.size()};
    VsockPacket packet;
    while (const auto length = mux.to_guest(packet.header, std::span(&piece, 1))) {
      packet.data = space.substr(0, *length);
      out.push_back(packet);
    }
    return out;
  }

  FakeVsockHost host;
  Log log;

 private:
  UniqueFd epoll_{::epoll_create1(EPOLL_CLOEXEC)};

 public:
  VsockMux mux{host,
               [this](int fd, uint64_t id) -> Result<void> {
                 epoll_event event{};
                 event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
                 event.data.u64 = id;
                 if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return {};
                 return fail(Errc::io, "epoll");
               },
               "vsock", log};
};

inline std::string read_all(int fd) {
  std::string out;
  std::array<char, 4096> buffer{};
  for (ssize_t n = 0; (n = ::read(fd, buffer.data(), buffer.size())) > 0;)
    out.append(buffer.data(), static_cast<size_t>(n));
  return out;
}
inline void write_all(int fd, const std::string& text) {
  MV_CHECK(::send(fd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
}
// Whether the other end is closed, and nothing is left to read.
inline bool at_end(int fd) {
  char c = 0;
  return ::read(fd, &c, 1) == 0;
}

}  // namespace minivmm::test
