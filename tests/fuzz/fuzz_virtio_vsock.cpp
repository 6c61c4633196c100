// The socket device's connections: the input is what a guest sends and what programs of the host do. Nothing
// may be lost or made up of a stream whose guest keeps to the rules, and nothing may grow past its bound.
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <span>
#include <vector>

#include "tests/fuzz/input.h"
#include "virtio/device/vsock_mux.h"

namespace {

using namespace minivmm;
using minivmm::test::Input;

constexpr uint64_t kCid = 3;

class Host final : public VsockHost {
 public:
  Result<UniqueFd> connect(uint32_t port) override {
    if (port % 4 == 3 || programs.size() >= 24) return fail(Errc::closed, "nobody listens");
    return make();
  }
  int listener() const override { return -1; }
  Result<UniqueFd> accept() override {
    if (clients == 0) return fail(Errc::io, "nobody waits");
    --clients;
    return make();
  }
  unsigned clients = 0;
  std::vector<UniqueFd> programs;

 private:
  Result<UniqueFd> make() {
    std::array<int, 2> fds{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds.data()) != 0)
      return fail(Errc::no_space, "fds");
    programs.emplace_back(fds[1]);
    return UniqueFd(fds[0]);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(std::span(data, size));
  Host host;
  Log log;
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  VsockMux mux(
      host,
      [&](int fd, uint64_t id) -> Result<void> {
        epoll_event event{};
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
        event.data.u64 = id;
        MV_CHECK(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0);
        return {};
      },
      "vsock", log);
  mux.set_guest_cid(kCid);
  std::array<std::byte, 8192> room{};
  while (!input.empty()) {
    switch (input.byte() % 8) {
      case 0:
      case 1: {  // a packet, of few ports so that they meet
        vsock::Header header{};
        header.src_cid = kCid;
        header.dst_cid = vsock::kHostCid;
        header.type = vsock::kTypeStream;
        header.op = input.byte();
        header.src_port = input.byte() % 4;
        header.dst_port = input.byte() % 8;
        header.flags = input.byte();
        const uint8_t credit = input.byte();
        header.buf_alloc = credit == 255 ? ~0U : uint32_t{credit} << 8;
        header.fwd_cnt = input.byte();
        std::vector<std::byte> payload(size_t{input.byte()} << 8, std::byte{0x5a});
        header.len = static_cast<uint32_t>(payload.size());
        const iovec piece{payload.data(), payload.size()};
        mux.from_guest(header, std::span(&piece, payload.empty() ? 0U : 1U));
        break;
      }
      case 2: {  // any header at all
        vsock::Header header{};
        const auto bytes = input.take(sizeof header);
        std::memcpy(static_cast<void*>(&header), bytes.data(), bytes.size());
        header.len = 0;
        mux.from_guest(header, {});
        break;
      }
      case 3: {
        const iovec piece{room.data(), size_t{1} + input.byte() * 32U};
        vsock::Header header{};
        if (const auto length = mux.to_guest(header, std::span(&piece, 1))) {
          MV_CHECK(*length <= piece.iov_len && header.len == *length && header.dst_cid == kCid);
        }
        break;
      }
      case 4:
        if (host.programs.size() < 24) ++host.clients;
        mux.accept();
        break;
      case 5: {  // a program writes
        if (host.programs.empty()) break;
        const UniqueFd& program = host.programs[input.byte() % host.programs.size()];
        if (input.byte() % 2 == 0) {
          [[maybe_unused]] const auto n =
              ::send(program.get(), "CONNECT 2\n", 10, MSG_NOSIGNAL | MSG_DONTWAIT);
        } else {
          const auto bytes = input.take(input.byte());
          [[maybe_unused]] const auto n =
              ::send(program.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        break;
      }
      case 6: {  // a program reads, ends its half, or goes
        if (host.programs.empty()) break;
        const size_t which = input.byte() % host.programs.size();
        const uint8_t what = input.byte();
        if (what % 4 == 0) {
          host.programs.erase(host.programs.begin() + static_cast<ptrdiff_t>(which));
        } else if (what % 4 == 1) {
          ::shutdown(host.programs[which].get(), what % 8 < 4 ? SHUT_WR : SHUT_RD);
        } else {
          [[maybe_unused]] const auto n = ::read(host.programs[which].get(), room.data(), room.size());
        }
        break;
      }
      default:
        if (input.byte() == 0) mux.clear();
        break;
    }
    std::array<epoll_event, 32> events{};
    const int count = ::epoll_wait(epoll.get(), events.data(), static_cast<int>(events.size()), 0);
    for (int i = 0; i < count; ++i) {
      mux.ready(events[static_cast<size_t>(i)].data.u64, events[static_cast<size_t>(i)].events);
    }
    MV_CHECK(mux.connections() <= 64);
    while (!mux.takes_packets()) {
      vsock::Header header{};
      const iovec piece{room.data(), room.size()};
      MV_CHECK(mux.to_guest(header, std::span(&piece, 1)).has_value());
    }
  }
  // However it was left, everything that waits can be taken, and it ends.
  vsock::Header header{};
  const iovec piece{room.data(), room.size()};
  for (size_t packets = 0; mux.to_guest(header, std::span(&piece, 1)); ++packets) MV_CHECK(packets < 100'000);
  mux.clear();
  MV_CHECK(!mux.has_packet());
  host.programs.clear();  // or what is kept for them stays
  mux.finish(std::chrono::seconds(1));
  MV_CHECK(mux.connections() == 0);
  return 0;
}
