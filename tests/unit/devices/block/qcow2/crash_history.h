// What may be found on a disk after a crash, by what was written and flushed before.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace minivmm::qcow2::test {

// What a guest may find in each sector: each write gives its sectors a number of its own.
class History {
 public:
  explicit History(uint64_t sectors) : sectors_(sectors, {{0, 0, 0}}) {}

  uint64_t size() const { return sectors_.size(); }
  // `begun` and `done` are times of the log.
  void add(uint64_t first, uint64_t count, uint64_t stamp, uint64_t begun, uint64_t done) {
    for (uint64_t i = first; i < first + count; ++i) sectors_[i].push_back({stamp, begun, done});
  }
  void flushed(uint64_t begun, uint64_t done) { flushes_.push_back({begun, done}); }

  // Whether a sector may hold `stamp` after a crash at `when`: the last one that a flush covers, or a later
  // one.
  bool allows(uint64_t sector, uint64_t stamp, uint64_t when) const {
    const auto& versions = sectors_[sector];
    for (size_t i = versions.size(); i-- > 0;) {
      if (versions[i].begun > when) continue;
      if (versions[i].stamp == stamp) return true;
      const bool kept = std::ranges::any_of(
          flushes_, [&](const Flush& one) { return one.done <= when && versions[i].done <= one.begun; });
      if (kept) return false;
    }
    return false;
  }

 private:
  struct Version {
    uint64_t stamp, begun, done;
  };
  struct Flush {
    uint64_t begun, done;
  };
  std::vector<std::vector<Version>> sectors_;
  std::vector<Flush> flushes_;
};

}  // namespace minivmm::qcow2::test
