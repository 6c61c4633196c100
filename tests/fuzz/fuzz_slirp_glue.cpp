// Frames of a guest's into user networking: the gate, the rewriting, and libslirp itself behind them.
// Restricted, so that nothing leaves the process but to a port of the host where nobody listens.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "devices/net/user/packet.h"
#include "devices/net/user/user_net.h"

using namespace minivmm;
using namespace minivmm::user_net;

namespace {

UserNetConfig config() {
  UserNetConfig config;
  config.restricted = true;
  const IpAddress nobody = IpAddress::v4(0x7f000001);
  config.guest_forwards = {{{config.host_number(100), 80}, {nobody, 1}, ""},
                           {{config.host_number(101), 80}, {}, "/nonexistent"}};
  config.max_sessions = 32;
  return config;
}

// Most inputs would end at a checksum.
void put_right(std::vector<uint8_t>& frame) {
  const std::span<uint8_t> ethernet = std::span(frame).subspan(kNetHeaderSize);
  if (ethernet.size() >= kEthernetHeader + kIpv4Header && load16(ethernet.data() + 12) == kEtherIpv4) {
    fill_in_ipv4_sum(ethernet);
  }
  auto packet = parse_packet(ethernet);
  if (!packet || packet->fragment) return;
  if (packet->is_tcp() || packet->is_udp()) {
    fill_in_transport_sum(*packet);
  } else if (packet->ether_type != kEtherArp) {
    const uint64_t start = packet->v6 ? pseudo_sum(*packet) : 0;
    store16(packet->header() + 2, 0);
    const uint16_t sum = fold_sum(add_to_sum(start, packet->frame.subspan(packet->transport)));
    std::memcpy(packet->header() + 2, &sum, sizeof sum);
  }
}

}  // namespace

// The input: the offloads allowed, then frames, each with a byte of flags and two of length before it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto net = make_user_net(config());
  NetQueue& queue = net->queue(0);
  if (!net->allow(*data)) return 0;
  std::span<const uint8_t> rest(data + 1, size - 1);
  std::vector<uint8_t> in(kMaxFrame);
  while (rest.size() >= 3) {
    const uint8_t flags = rest[0];
    const size_t length = std::min<size_t>(size_t{rest[1]} | size_t{rest[2]} << 8, rest.size() - 3);
    std::vector<uint8_t> frame(rest.begin() + 3, rest.begin() + 3 + static_cast<ptrdiff_t>(length));
    rest = rest.subspan(3 + length);
    if ((flags & 1) != 0 && frame.size() >= kNetHeaderSize + kEthernetHeader) put_right(frame);
    const size_t first = frame.size() / 2;
    const std::array<iovec, 2> out{iovec{frame.data(), first},
                                   iovec{frame.data() + first, frame.size() - first}};
    (void)queue.send(out);
    if ((flags & 2) == 0) continue;
    queue.flush();
    const iovec piece{in.data(), (flags & 4) != 0 ? size_t{200} : in.size()};
    for (int i = 0; i < 100; ++i) {
      const auto received = queue.receive({&piece, 1});
      if (received && *received == 0) break;
    }
  }
  return 0;
}
