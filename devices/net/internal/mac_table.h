// Which member of a segment an Ethernet address was last heard from. Bounded: a member that makes up
// addresses pushes out its own before anybody else's.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "devices/net/mac_address.h"

namespace minivmm {

class MacTable {
 public:
  using Clock = std::chrono::steady_clock;
  using Member = uint32_t;
  static constexpr size_t kMaxEntries = 1024;
  static constexpr size_t kMaxOfMember = 256;
  static constexpr std::chrono::seconds kAge{300};  // IEEE 802.1Q, 8.8.3: the recommended ageing time

  MacTable();

  // A frame came from `source`. Groups are not learned.
  void learn(const MacAddress& source, Member member, Clock::time_point now);
  // nullopt: not known, or not heard of for kAge.
  std::optional<Member> find(const MacAddress& destination, Clock::time_point now) const;
  void forget(Member member);
  size_t size() const { return keys_.size(); }

 private:
  struct Entry {
    Member member;
    Clock::time_point heard;
  };

  size_t index_of(uint64_t key) const;
  void remove(size_t index);
  void make_room(Member member);

  std::vector<uint64_t> keys_;  // apart from the entries: a search reads these alone
  std::vector<Entry> entries_;  // as long as keys_
};

}  // namespace minivmm
