// Addresses of the guest's network that stand for a service elsewhere: the ones of guestfwd=, and the name
// server with dns=. libslirp knows redirections only to Unix sockets, so packets are rewritten on their way.
#pragma once

#include <cstdint>
#include <vector>

#include "devices/net/user/flow_table.h"
#include "devices/net/user/packet.h"
#include "devices/net/user/user_config.h"

namespace minivmm::user_net {

class Redirects {
 public:
  Redirects(const UserNetConfig& config, FlowTable& flows);

  // The guest's packet, which the gate has let through.
  template <class Dropped>
  void outward(Packet& packet, Dropped dropped) {
    if (rules_.empty() || !(packet.is_tcp() || packet.is_udp())) return;
    if (const Rule* rule = rule_for(packet)) {
      flows_.add(packet.protocol, packet.source, rule->host, dropped).redirect =
          static_cast<uint8_t>(rule - rules_.data() + 1);
      set_destination(packet, rule->host);
    } else {
      forget(packet);
    }
  }
  // A packet to the guest.
  void inward(Packet& packet);

 private:
  struct Rule {
    Endpoint guest;
    Endpoint host;
    bool udp_too;
  };
  const Rule* rule_for(const Packet&) const;
  void forget(const Packet&);  // the guest means the host's endpoint itself

  std::vector<Rule> rules_;
  FlowTable& flows_;
};

}  // namespace minivmm::user_net
