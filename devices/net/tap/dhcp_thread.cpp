#include "devices/net/tap/dhcp_thread.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "vmm/core/error.h"
#include "vmm/core/quiet_thread.h"

namespace minivmm {

namespace {

// A guest may ask for as many cards as it likes to have: bridges of its own, containers.
constexpr size_t kMaxLeases = 16;
constexpr uint32_t kMaxTries = 256;

// IPv4, UDP, not a later fragment, to port 67: nothing else wakes the thread.
constexpr std::array<sock_filter, 9> kToServer{{
    BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 6),
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 17, 0, 4),
    BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 14),
    BPF_STMT(BPF_LD | BPF_H | BPF_IND, 16),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 67, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, 0xffff),
    BPF_STMT(BPF_RET | BPF_K, 0),
}};

UniqueFd packet_socket(int index) {
  UniqueFd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  auto filter = kToServer;
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  const int on = 1;
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  // All protocols: what is bound to one gets a frame only after the bridge has taken it.
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = index;
  if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0 ||
      ::setsockopt(fd.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) != 0 ||
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    throw_errno("listen for the guest's DHCP questions",
                "it needs CAP_NET_RAW; with dhcp=off the guest gets its address from its own settings");
  }
  return fd;
}

}  // namespace

DhcpThread::DhcpThread(const Link& tap, const Link& bridge, const Ipv4Network& network)
    : server_{network, bridge.address}, bridge_(bridge.index), socket_(packet_socket(tap.index)) {
  thread_ = start_quiet_thread("dhcp", [this] { run(); });
}

DhcpThread::~DhcpThread() {
  stop_.signal();
  thread_.join();
  for (const Lease& lease : leases_) links_.remove_neighbour(bridge_, lease.address);
}

void DhcpThread::run() {
  std::array<std::byte, 2048> frame{};
  std::array<pollfd, 2> fds{pollfd{socket_.get(), POLLIN, 0}, pollfd{stop_.fd(), POLLIN, 0}};
  for (;;) {
    ::poll(fds.data(), fds.size(), -1);
    if (fds[1].revents != 0) return;
    const ssize_t got = ::recv(socket_.get(), frame.data(), frame.size(), 0);
    if (got < 0) {
      if (errno == ENODEV) return;  // the tap was deleted
      continue;
    }
    const auto answer = answer_dhcp(server_, std::span(frame).first(static_cast<size_t>(got)),
                                    [this](const MacAddress& card) { return lease(card); });
    // One that is lost is asked for again.
    if (answer) static_cast<void>(::send(socket_.get(), answer->data(), answer->size(), 0));
  }
}

std::optional<uint32_t> DhcpThread::lease(const MacAddress& card) {
  const auto known = std::ranges::find(leases_, card, &Lease::card);
  if (known != leases_.end()) return known->address;
  if (leases_.size() == kMaxLeases) return std::nullopt;
  const DhcpRange range = dhcp_range(server_.network);
  uint32_t hash = 2'166'136'261;  // FNV-1a: the same card gets the same address where it can
  for (const uint8_t byte : card.bytes) hash = (hash ^ byte) * 16'777'619;
  const uint32_t network = server_.network.address & server_.network.mask();
  for (uint32_t i = 0; i < std::min(range.count, kMaxTries); ++i) {
    const uint32_t address = network + range.first + (hash % range.count + i) % range.count;
    if (address == server_.network.address) continue;
    const int error = links_.add_neighbour(bridge_, address, card);
    if (error == 0 || (error == EEXIST && links_.find_neighbour(bridge_, address) == card)) {
      leases_.push_back({card, address});
      return address;
    }
  }
  return std::nullopt;
}

}  // namespace minivmm
