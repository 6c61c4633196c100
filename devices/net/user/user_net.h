// User networking: a NAT in the VMM's own process, by libslirp. It needs no privileges and no set-up, and
// gives the guest DHCP, DNS, IPv4, IPv6 and what ports of the host are forwarded (docs/networking.md).
#pragma once

#include <memory>

#include "devices/net/net_backend.h"
#include "devices/net/user/user_config.h"

namespace minivmm {

class UserNet : public NetBackend {
 public:
  // While the machine runs, from any thread. They throw HostError: the port is taken, there is none.
  virtual void add_forward(const user_net::Forward&) = 0;
  virtual void remove_forward(const user_net::Forward&) = 0;
};

// Throws HostError: libslirp is not installed, a port is taken.
std::unique_ptr<UserNet> make_user_net(const user_net::UserNetConfig&);

}  // namespace minivmm
