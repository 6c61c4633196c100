// Sockets of the host that a guest is to reach, or not to.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <string>

#include "devices/net/user/packet.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm::test {

struct HostAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

inline HostAddress host_address(const user_net::Endpoint& endpoint) {
  HostAddress address;
  if (endpoint.address.is_v4()) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(endpoint.port);
    v4.sin_addr.s_addr = htonl(endpoint.address.as_v4());
    std::memcpy(&address.storage, &v4, sizeof v4);
    address.size = sizeof v4;
  } else {
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(endpoint.port);
    std::memcpy(&v6.sin6_addr, endpoint.address.bytes.data(), 16);
    std::memcpy(&address.storage, &v6, sizeof v6);
    address.size = sizeof v6;
  }
  return address;
}

// Non-blocking, bound to a free port of `address`; one of TCP listens.
class HostSocket {
 public:
  explicit HostSocket(int type, const user_net::Endpoint& endpoint) {
    const HostAddress wanted = host_address(endpoint);
    fd_ = UniqueFd(::socket(wanted.storage.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd_ || ::bind(fd_.get(), wanted.get(), wanted.size) != 0) throw_errno("make a test's socket");
    if (type == SOCK_STREAM) ::listen(fd_.get(), 1024);
    HostAddress got;
    got.size = sizeof got.storage;
    ::getsockname(fd_.get(), got.get(), &got.size);
    port_ =
        ntohs(got.storage.ss_family == AF_INET ? reinterpret_cast<sockaddr_in*>(&got.storage)->sin_port
                                               : reinterpret_cast<sockaddr_in6*>(&got.storage)->sin6_port);
  }
  int fd() const { return fd_.get(); }
  uint16_t port() const { return port_; }
  UniqueFd accept() const {
    return UniqueFd(::accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  }
  // The same of one that is on its way: the kernel tells an end that it is connected, or has sent, a moment
  // before the other end has it, and a moment is long on a busy machine. Empty: it did not come.
  UniqueFd await_connection() const { return comes() ? accept() : UniqueFd(); }
  std::string await_datagram(HostAddress& from) const { return comes() ? receive(from) : std::string(); }
  bool untouched() const { return !accept() && errno == EAGAIN; }
  // A datagram, and who has sent it.
  std::string receive(HostAddress& from) const {
    std::array<char, 65536> buffer;
    from.size = sizeof from.storage;
    const ssize_t n = ::recvfrom(fd_.get(), buffer.data(), buffer.size(), 0, from.get(), &from.size);
    return n < 0 ? std::string() : std::string(buffer.data(), static_cast<size_t>(n));
  }

 private:
  bool comes() const {
    constexpr int kPatienceMs = 10'000;
    pollfd look{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    return ::poll(&look, 1, kPatienceMs) == 1;
  }

  UniqueFd fd_;
  uint16_t port_ = 0;
};

inline UniqueFd connect_to(const user_net::Endpoint& endpoint) {
  const HostAddress address = host_address(endpoint);
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(fd.get(), address.get(), address.size) != 0) return {};
  ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
  return fd;
}

// What has come so far, appended.
inline void read_into(const UniqueFd& fd, std::string& text) {
  std::array<char, 65536> buffer;
  for (;;) {
    const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n <= 0) return;
    text.append(buffer.data(), static_cast<size_t>(n));
  }
}

// A port of the host that is free right now.
inline uint16_t free_port(int type = SOCK_STREAM) {
  return HostSocket(type, {user_net::IpAddress::v4(INADDR_LOOPBACK), 0}).port();
}

}  // namespace minivmm::test
