#include "devices/net/user/flow_table.h"

#include <sys/random.h>

#include "vmm/core/error.h"

namespace minivmm::user_net {

namespace {

uint64_t mix(uint64_t hash, uint64_t word) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;  // 2^64 divided by the golden ratio
  hash = (hash ^ word) * kOdd;
  return hash ^ (hash >> 29);
}

uint64_t mix(uint64_t hash, const IpAddress& address) {
  uint64_t words[2];
  std::memcpy(words, address.bytes.data(), sizeof words);
  return mix(mix(hash, words[0]), words[1]);
}

}  // namespace

FlowTable::FlowTable() : sets_(std::make_unique<std::array<Set, kSets>>()) {
  if (::getrandom(&seed_, sizeof seed_, 0) != sizeof seed_) throw_errno("get random bytes");
}

uint64_t FlowTable::tag_of(uint8_t protocol, const Endpoint& guest, const Endpoint& remote) const {
  uint64_t hash = mix(mix(seed_, guest.address), remote.address);
  hash = mix(hash, uint64_t{protocol} << 32 | uint64_t{guest.port} << 16 | remote.port);
  return hash == 0 ? 1 : hash;
}

Flow* FlowTable::find(uint8_t protocol, const Endpoint& guest, const Endpoint& remote) {
  const uint64_t tag = tag_of(protocol, guest, remote);
  for (Flow& flow : set_of(tag)) {
    if (flow.tag == tag) return &touch(flow);
  }
  return nullptr;
}

}  // namespace minivmm::user_net
