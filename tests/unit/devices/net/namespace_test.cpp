#include "tests/unit/devices/net/namespace_test.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "vmm/core/error.h"

namespace minivmm::test {

namespace {

constexpr int kSkipped = 77;

void write_file(const char* path, const std::string& text) {
  std::ofstream(path) << text;
}

// root in it, of whatever user we are.
bool enter_namespace() {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (uid == 0) return ::unshare(CLONE_NEWNET) == 0;
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return false;
  write_file("/proc/self/setgroups", "deny");
  write_file("/proc/self/uid_map", fmt::format("0 {} 1", uid));
  write_file("/proc/self/gid_map", fmt::format("0 {} 1", gid));
  return true;
}

[[noreturn]] void be_child(const std::function<void()>& body) {
  if (!enter_namespace() || ::access("/dev/net/tun", R_OK | W_OK) != 0) std::_Exit(kSkipped);
  try {
    run("ip link set lo up");
    body();
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
  }
  if (testing::Test::HasFailure()) std::_Exit(1);
  std::_Exit(testing::Test::IsSkipped() ? kSkipped : 0);
}

}  // namespace

void in_own_network(const std::function<void()>& body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) be_child(body);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kSkipped)
    GTEST_SKIP() << "needs a network namespace, /dev/net/tun, and what the test makes there";
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

std::unique_ptr<NetBackend> open(const std::string& text) {
  static Log log;
  static EventLoop loop;
  return open_net(parse_net_spec(text), NetContext{.machine = "test", .log = log, .time = loop});
}

std::string error_of(const std::string& text) {
  try {
    open(text);
  } catch (const HostError& error) {
    return error.what();
  }
  return "(none)";
}

void run(const std::string& command) {
  const int status = std::system(command.c_str());  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test's
  ASSERT_EQ(status, 0) << command;
}

void make_persistent_tap(const std::string& name) {
  run(fmt::format("ip tuntap add {} mode tap", name));
}

void drop_rights() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> none{};
  ASSERT_EQ(::syscall(SYS_capset, &header, none.data()), 0);
}

PacketSocket::PacketSocket(const std::string& interface)
    : fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL))) {
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(interface.c_str()));
  if (!fd_ || ::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    throw_errno("open a packet socket");
}

void PacketSocket::send(const Bytes& packet) const {
  EXPECT_EQ(::send(fd_.get(), packet.data(), packet.size(), 0), static_cast<ssize_t>(packet.size()));
}

Bytes PacketSocket::receive() const {
  Bytes packet(kMaxFrame);
  pollfd look{fd_.get(), POLLIN, 0};
  while (::poll(&look, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())) > 0) {
    sockaddr_ll from{};
    socklen_t size = sizeof from;
    const ssize_t got =
        ::recvfrom(fd_.get(), packet.data(), packet.size(), 0, reinterpret_cast<sockaddr*>(&from), &size);
    if (got < 14 || from.sll_pkttype == PACKET_OUTGOING) continue;
    if (packet[12] != std::byte{0x88} && packet[12] != std::byte{0x08}) continue;  // the host's own
    packet.resize(static_cast<size_t>(got));
    return packet;
  }
  return {};
}

Bytes udp_packet(uint8_t flow) {
  Bytes packet = packet_of(make_frame(mac(1), mac(2), 28));
  packet[12] = std::byte{0x08};
  packet[13] = std::byte{0x00};
  packet[14] = std::byte{0x45};
  packet[17] = std::byte{28};  // its length
  packet[22] = std::byte{64};
  packet[23] = std::byte{17};
  packet[26] = packet[30] = std::byte{10};
  packet[29] = std::byte{1};
  packet[33] = std::byte{2};
  packet[34] = packet[36] = std::byte{0x40};
  packet[35] = std::byte{flow};
  packet[39] = std::byte{8};  // UDP's length
  return packet;
}

LinkWatcher::LinkWatcher(NetBackend& net) : net_(net) {
  net_.watch_link([this] { changed_.signal(); });
}

bool LinkWatcher::becomes(bool up) const {
  pollfd look{changed_.fd(), POLLIN, 0};
  while (net_.link_up() != up) {
    if (::poll(&look, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())) <= 0) return false;
    changed_.consume();
  }
  return true;
}

}  // namespace minivmm::test
