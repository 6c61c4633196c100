// Which host clusters are metadata: no guest data is written there, and no allocation returns one.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace minivmm::qcow2 {

class MetadataSet {
 public:
  // Building: in any order, then settle().
  void add_range(uint64_t first, uint64_t count);  // the header, L1 and refcount tables, what snapshots own
  void add_table(uint64_t cluster);                // one of the L2 tables and refcount blocks
  // False: one of the tables lies where other metadata is.
  bool settle();

  // Afterwards.
  void insert(uint64_t cluster);
  void insert_range(uint64_t first, uint64_t count);
  void erase(uint64_t cluster);
  void erase_range(uint64_t first, uint64_t count);
  bool overlaps(uint64_t first, uint64_t count) const;

 private:
  struct Range {
    uint64_t first;
    uint64_t end;
  };
  bool in_ranges(uint64_t first, uint64_t end) const;

  std::vector<uint64_t> tables_;  // sorted
  std::vector<Range> ranges_;     // sorted, merged
};

}  // namespace minivmm::qcow2
