#include "devices/net/internal/mac_table.h"

#include <algorithm>
#include <cstring>

namespace minivmm {

namespace {

uint64_t key_of(const MacAddress& mac) {
  uint64_t key = 0;
  std::memcpy(&key, mac.bytes.data(), mac.bytes.size());
  return key;
}

}  // namespace

MacTable::MacTable() {
  keys_.reserve(kMaxEntries);
  entries_.reserve(kMaxEntries);
}

size_t MacTable::index_of(uint64_t key) const {
  return static_cast<size_t>(std::ranges::find(keys_, key) - keys_.begin());
}

void MacTable::remove(size_t index) {
  keys_[index] = keys_.back();
  entries_[index] = entries_.back();
  keys_.pop_back();
  entries_.pop_back();
}

void MacTable::learn(const MacAddress& source, Member member, Clock::time_point now) {
  if (source.is_multicast() || source.is_zero()) return;
  const uint64_t key = key_of(source);
  size_t index = index_of(key);
  if (index == keys_.size()) {
    make_room(member);
    index = keys_.size();
    keys_.push_back(key);
    entries_.emplace_back();
  }
  entries_[index] = {member, now};
}

std::optional<MacTable::Member> MacTable::find(const MacAddress& destination, Clock::time_point now) const {
  const size_t index = index_of(key_of(destination));
  if (index == keys_.size() || now - entries_[index].heard > kAge) return std::nullopt;
  return entries_[index].member;
}

void MacTable::forget(Member member) {
  for (size_t i = keys_.size(); i-- > 0;) {
    if (entries_[i].member == member) remove(i);
  }
}

void MacTable::make_room(Member member) {
  const auto of_member = static_cast<size_t>(std::ranges::count(entries_, member, &Entry::member));
  const bool full = keys_.size() == kMaxEntries;
  if (of_member < kMaxOfMember && !full) return;
  // Its own oldest, or, where it has none of its own in a full table, the oldest of all.
  size_t oldest = keys_.size();
  for (size_t i = 0; i < keys_.size(); ++i) {
    if (of_member != 0 && entries_[i].member != member) continue;
    if (oldest == keys_.size() || entries_[i].heard < entries_[oldest].heard) oldest = i;
  }
  remove(oldest);
}

}  // namespace minivmm
