// What a guest may reach. It stands in front of libslirp, which by itself lets a packet to 127.0.0.1 through
// to the host's loopback, answers senders that its own assertions forbid, and opens as many sockets as it is
// asked to.
#pragma once

#include <cstdint>

#include "devices/net/user/flow_table.h"
#include "devices/net/user/packet.h"
#include "devices/net/user/user_config.h"

namespace minivmm::user_net {

enum class Verdict : uint8_t {
  pass,
  drop,
  refuse,  // a TCP segment: the guest is told at once
};

// How much libslirp has open.
enum class Crowd : uint8_t {
  room,
  full,         // nothing new
  overcrowded,  // nothing that could be new
};

class Gate {
 public:
  // Both outlive it.
  Gate(const UserNetConfig& config, FlowTable& flows) : config_(config), flows_(flows) {}

  // A packet of the guest's, no fragment, as the guest addressed it.
  Verdict judge(const Packet&, Crowd);

 private:
  Verdict judge_arp(const Packet&) const;
  Verdict judge_ipv4(const Packet&);
  Verdict judge_ipv6(const Packet&);
  Verdict to_gateway(const Packet&);
  Verdict to_network(const Packet&) const;
  Verdict to_outside(const Packet&);
  bool may_send_from(const Packet&) const;
  bool may_send_from6(const Packet&) const;
  bool answers_host(const Packet&);  // a datagram to one who sent some first: through a forwarded port
  bool admitted(const Packet&, Crowd);

  const UserNetConfig& config_;
  FlowTable& flows_;
};

}  // namespace minivmm::user_net
