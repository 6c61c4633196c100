// Connections that the host has ended first and the guest has ended, too: libslirp keeps their sockets for
// another ten seconds (RFC 9293, 3.6.1: TIME-WAIT), though nothing strays on this cable. Where many come, the
// oldest are let go early, by a reset as the guest might send it.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>

#include "devices/net/user/packet.h"

namespace minivmm::user_net {

class Lingering {
 public:
  // The guest's segment with FIN that ended it, as libslirp got it.
  void add(const Packet& last);
  // The guest begins anew between the same two ends.
  void forget(const Packet& opening);
  // What to give to libslirp so that it lets the oldest go; valid until the next call. Empty: there is none.
  std::span<const uint8_t> let_go();

 private:
  struct Ended {
    Endpoint guest;
    Endpoint host;
    std::array<uint8_t, kMaxResetFrame> reset;
    size_t size;
  };
  static constexpr size_t kMost = 1024;

  std::deque<Ended> ended_;
  std::optional<Ended> gone_;
};

}  // namespace minivmm::user_net
