// Tests with interfaces of their own: a child process in a new network namespace, which goes with all that
// was made in it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "devices/net/links.h"
#include "devices/net/open_net.h"
#include "tests/unit/devices/net/frames.h"

namespace minivmm::test {

// Runs `body` there; its failures are the calling test's. Skips that where the kernel gives no namespaces or
// taps.
void in_own_network(const std::function<void()>& body);

// As the machine opens it; and the message of what it throws.
std::unique_ptr<NetBackend> open(const std::string& text);
std::string error_of(const std::string& text);

// Commands of a shell, which have to succeed.
void run(const std::string& command);

// As `ip tuntap add NAME mode tap` does it.
void make_persistent_tap(const std::string& name);

// Gives up all capabilities, for good.
void drop_rights();

// The host's side of an interface: all frames that come from the guest, and what is sent to it.
class PacketSocket {
 public:
  explicit PacketSocket(const std::string& interface);
  void send(const Bytes& packet) const;
  // The next that is of our own kind (make_frame(), udp_packet()); empty: none came.
  Bytes receive() const;

 private:
  UniqueFd fd_;
};

// UDP over IPv4, of a flow of its own.
Bytes udp_packet(uint8_t flow);

// Waits until a back end's link is up or down.
class LinkWatcher {
 public:
  explicit LinkWatcher(NetBackend& net);
  LinkWatcher(const LinkWatcher&) = delete;
  LinkWatcher& operator=(const LinkWatcher&) = delete;
  ~LinkWatcher() { net_.watch_link({}); }
  bool becomes(bool up) const;

 private:
  NetBackend& net_;
  EventFd changed_;
};

}  // namespace minivmm::test
