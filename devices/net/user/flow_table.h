// What is remembered of the guest's conversations: a fixed number of them, the least recently used of a few
// goes when there is no room. No flow depends on being remembered.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "devices/net/user/packet.h"

namespace minivmm::user_net {

struct Flow {
  uint64_t tag = 0;         // 0: free
  uint32_t used = 0;        // when, in the table's own count
  uint32_t acked = 0;       // TCP: what libslirp acknowledged last
  uint16_t unacked = 0;     // TCP: segments with data that it got since
  uint16_t mss = 0;         // TCP: of data in a segment, the most that the guest takes; 0: not known
  uint8_t redirect = 0;     // 1 + the redirection's index; 0: none
  uint32_t host_end = 0;    // TCP: what acknowledges the host's FIN
  bool host_ended = false;  // TCP: there was one
  bool from_host = false;   // UDP: the other end has sent something
};

class FlowTable {
 public:
  FlowTable();

  // Null: not known. Both are valid until the next add().
  Flow* find(uint8_t protocol, const Endpoint& guest, const Endpoint& remote);
  // The one there is, or a new one; `dropped` is told of one that made room.
  template <class Dropped>
  Flow& add(uint8_t protocol, const Endpoint& guest, const Endpoint& remote, Dropped dropped) {
    const uint64_t tag = tag_of(protocol, guest, remote);
    Set& set = set_of(tag);
    Flow* oldest = &set[0];
    for (Flow& flow : set) {
      if (flow.tag == tag) return touch(flow);
      if (flow.tag == 0 || (oldest->tag != 0 && now_ - flow.used > now_ - oldest->used)) oldest = &flow;
    }
    if (oldest->tag != 0) dropped(*oldest);
    *oldest = Flow{.tag = tag};
    return touch(*oldest);
  }

 private:
  static constexpr size_t kWays = 4;
  static constexpr size_t kSets = 1024;
  using Set = std::array<Flow, kWays>;

  uint64_t tag_of(uint8_t protocol, const Endpoint& guest, const Endpoint& remote) const;
  Set& set_of(uint64_t tag) { return (*sets_)[tag % kSets]; }
  Flow& touch(Flow& flow) {
    flow.used = ++now_;
    return flow;
  }

  std::unique_ptr<std::array<Set, kSets>> sets_;
  uint64_t seed_ = 0;  // so that the guest cannot choose flows that displace each other
  uint32_t now_ = 0;
};

}  // namespace minivmm::user_net
