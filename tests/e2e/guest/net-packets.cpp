// What busybox has no program for, in the guests of network cases:
//   net-packets udp-ask ADDRESS PORT BYTES   sends a datagram and says whether the same came back: "same" or
//   "nothing" net-packets udp-echo PORT                sends back each datagram, for ever net-packets
//   udp-flood ADDRESS PORT SECS   sends datagrams of 1400 bytes as fast as it can net-packets frames
//   INTERFACE             sends the Ethernet frames on standard input, one a line, in hexadecimal
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr size_t kMostBytes = 65536;

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

// Not getaddrinfo(), which wants glibc's shared libraries even in a static program.
int connected(const char* address, const char* port) {
  const auto number = htons(static_cast<uint16_t>(std::atoi(port)));
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = number;
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = number;
  const bool is_v4 = inet_pton(AF_INET, address, &v4.sin_addr) == 1;
  if (!is_v4 && inet_pton(AF_INET6, address, &v6.sin6_addr) != 1) die(address);
  const int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_DGRAM, 0);
  const sockaddr* const to =
      is_v4 ? reinterpret_cast<const sockaddr*>(&v4) : reinterpret_cast<const sockaddr*>(&v6);
  if (fd < 0 || connect(fd, to, is_v4 ? sizeof v4 : sizeof v6) != 0) die(address);
  return fd;
}

int udp_ask(const char* address, const char* port, size_t bytes) {
  const int fd = connected(address, port);
  const timeval patience{.tv_sec = 3, .tv_usec = 0};
  if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0) die("setsockopt");
  // As IPv6 always does it: what does not fit into a frame shall not go.
  const int never = IP_PMTUDISC_DO;
  setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &never, sizeof never);
  std::string question(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) question[i] = static_cast<char>(i * 31 + i / 251);
  if (send(fd, question.data(), bytes, 0) != static_cast<ssize_t>(bytes)) die("send");
  std::string answer(kMostBytes, '\0');
  const ssize_t size = recv(fd, answer.data(), answer.size(), 0);
  answer.resize(size < 0 ? 0 : static_cast<size_t>(size));
  std::puts(answer == question ? "same" : "nothing");
  return 0;
}

int udp_echo(const char* port) {
  const int fd = socket(AF_INET6, SOCK_DGRAM, 0);
  sockaddr_in6 all{};
  all.sin6_family = AF_INET6;
  all.sin6_port = htons(static_cast<uint16_t>(std::atoi(port)));
  if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&all), sizeof all) != 0) die("bind");
  std::vector<char> data(kMostBytes);
  for (;;) {
    sockaddr_in6 from{};
    socklen_t size = sizeof from;
    const ssize_t got = recvfrom(fd, data.data(), data.size(), 0, reinterpret_cast<sockaddr*>(&from), &size);
    if (got >= 0)
      sendto(fd, data.data(), static_cast<size_t>(got), 0, reinterpret_cast<const sockaddr*>(&from), size);
  }
}

int udp_flood(const char* address, const char* port, time_t seconds) {
  const int fd = connected(address, port);
  const std::string data(1400, 'x');
  const time_t end = time(nullptr) + seconds;
  while (time(nullptr) < end) send(fd, data.data(), data.size(), 0);
  return 0;
}

int frames(const char* interface) {
  const int fd = socket(AF_PACKET, SOCK_RAW, 0);
  sockaddr_ll card{};
  card.sll_family = AF_PACKET;
  card.sll_ifindex = static_cast<int>(if_nametoindex(interface));
  if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&card), sizeof card) != 0) die(interface);
  unsigned sent = 0;
  std::vector<char> line(2 * kMostBytes);
  while (std::fgets(line.data(), static_cast<int>(line.size()), stdin) != nullptr) {
    std::string frame;
    unsigned byte = 0;
    for (const char* at = line.data(); std::sscanf(at, "%2x", &byte) == 1; at += 2)
      frame += static_cast<char>(byte);
    if (send(fd, frame.data(), frame.size(), 0) != static_cast<ssize_t>(frame.size())) die("send");
    ++sent;
  }
  std::printf("%u frames\n", sent);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "udp-ask" && argc == 5) return udp_ask(argv[2], argv[3], std::strtoul(argv[4], nullptr, 10));
  if (what == "udp-echo" && argc == 3) return udp_echo(argv[2]);
  if (what == "udp-flood" && argc == 5) return udp_flood(argv[2], argv[3], std::atoi(argv[4]));
  if (what == "frames" && argc == 3) return frames(argv[2]);
  std::fputs("net-packets: see net-packets.cpp\n", stderr);
  return 2;
}
