// Whatever other members of a private network, a passt or the host's kernel send, and whatever a guest does
// with it: the port of the switch stays within its bounds, and what it gives to a guest makes sense.
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <vector>

#include "devices/net/internal/switch_port.h"
#include "devices/net/links.h"
#include "devices/net/net_header.h"
#include "devices/net/passt/stream_frames.h"
#include "devices/net/tap/dhcp.h"
#include "tests/temp_folder.h"
#include "vmm/core/error.h"

namespace {

using namespace minivmm;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : bytes_(reinterpret_cast<const std::byte*>(data), size) {}
  bool empty() const { return bytes_.empty(); }
  uint8_t byte() {
    const auto got = take(1);
    return got.empty() ? uint8_t{0} : std::to_integer<uint8_t>(got[0]);
  }
  std::span<const std::byte> take(size_t size) {
    const auto got = bytes_.first(std::min(size, bytes_.size()));
    bytes_ = bytes_.subspan(got.size());
    return got;
  }
  // Of a length that the input says; one in many is as long as a frame can be.
  std::vector<std::byte> message() {
    const size_t size = byte();
    const size_t repeat = size >= 250 ? 300 : 1;
    const auto once = take(size);
    std::vector<std::byte> out;
    for (size_t i = 0; i < repeat; ++i) out.insert(out.end(), once.begin(), once.end());
    return out;
  }

 private:
  std::span<const std::byte> bytes_;
};

// One port for all inputs, and two connections to it that are made again when they were closed.
class World {
 public:
  World() : port_(folder_.path(), "fuzz") {}

  void say(unsigned who, const std::vector<std::byte>& message) {
    UniqueFd& fd = peers_.at(who);
    if (!fd) fd = connect();
    if (::send(fd.get(), message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EPIPE)
      fd.reset();
  }
  void hear() {
    for (UniqueFd& fd : peers_) {
      if (fd && ::recv(fd.get(), room_.data(), room_.size(), MSG_DONTWAIT) == 0) fd.reset();
    }
  }
  void guest_sends(std::vector<std::byte> frame, size_t first_piece) {
    const std::vector<iovec> pieces = cut(frame, first_piece);
    static_cast<void>(queue().send(pieces));
  }
  void guest_receives(size_t room, size_t first_piece) {
    const auto pieces = cut(std::span(room_).first(room), first_piece);
    for (int i = 0; i < 10'000; ++i) {
      const auto got = queue().receive(pieces);
      if (!got) continue;
      if (*got == 0) return;
      MV_CHECK(*got <= room && *got >= kNetHeaderSize + kEthernetHeader);
      const auto header = check_net_header(room_, *got - kNetHeaderSize);
      MV_CHECK(header && (header->needs() & ~allowed_) == 0);
    }
    std::abort();  // a queue that never ends
  }
  void allow(NetOffloads offloads) {
    allowed_ = offloads;
    static_cast<void>(static_cast<NetBackend&>(port_).allow(offloads));
  }

 private:
  NetQueue& queue() { return static_cast<NetBackend&>(port_).queue(0); }
  UniqueFd connect() {
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path() / "fuzz")) {
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      entry.path().string().copy(address.sun_path, sizeof address.sun_path - 1);
      UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
      if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
    }
    std::abort();
  }
  static std::vector<iovec> cut(std::span<std::byte> bytes, size_t first) {
    std::vector<iovec> pieces;
    for (size_t size = first; !bytes.empty(); size = size * 2 + 1) {
      const auto piece = bytes.first(std::min(size, bytes.size()));
      pieces.push_back({piece.data(), piece.size()});
      bytes = bytes.subspan(piece.size());
    }
    return pieces;
  }

  test::TempFolder folder_;
  SwitchPort port_;
  std::array<UniqueFd, 2> peers_;
  std::vector<std::byte> room_ = std::vector<std::byte>(kMaxFrame);
  NetOffloads allowed_ = 0;
};

void parse_stream(Input& input) {
  StreamFrames frames;
  while (!input.empty()) {
    const auto message = input.message();
    auto room = frames.room();
    const size_t size = std::min(room.size(), message.size());
    std::copy_n(message.begin(), size, room.begin());
    frames.added(size);
    for (;;) {
      const auto frame = frames.next();
      if (!frame) return;
      if (!*frame) break;
      MV_CHECK((*frame)->size() >= kEthernetHeader && (*frame)->size() <= kMaxFrame);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World world;
  Input input(data, size);
  switch (input.byte() % 8) {
    case 0: parse_stream(input); return 0;
    case 1:
      for_each_message(input.take(size), [](const NetlinkMessage& message) { parse_link(message); });
      return 0;
    case 2: {
      const DhcpServer server{{0xc0a83801, 24}, {}};
      answer_dhcp(server, input.take(size), [](const MacAddress&) { return std::optional(0xc0a83865u); });
      return 0;
    }
    default: break;
  }
  world.allow(input.byte());
  while (!input.empty()) {
    const uint8_t what = input.byte();
    switch (what % 4) {
      case 0:
      case 1: world.say(what % 4, input.message()); break;
      case 2: world.guest_sends(input.message(), 1 + what / 4); break;
      default: world.guest_receives(what < 128 ? kMaxFrame : size_t{1} + what, 1 + what / 4); break;
    }
  }
  world.guest_receives(kMaxFrame, 7);
  world.hear();
  return 0;
}
