// L2 tables: what an entry says about its guest cluster, and how far a run of alike ones goes. "L2 table
// entry", "Extended L2 Entries". Pure functions of a table's bytes.
#pragma once

#include <cstdint>
#include <span>

#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

// Sizes that follow from the header and never change while the image is open.
struct Layout {
  explicit Layout(const Header& header);

  unsigned cluster_bits;
  unsigned sub_bits;     // log2 of the subcluster's size; the cluster's without extended L2 entries
  unsigned entry_bytes;  // of an L2 entry: 8 or 16
  unsigned l2_bits;      // log2 of the entries of an L2 table
  unsigned refcount_order;
  bool zero_flag;  // version 3: clusters can be said to be zeroes
  bool extended;   // extended L2 entries
  bool data_file;  // guest data is in an external file, at the guest's offsets

  uint64_t cluster_size() const { return uint64_t{1} << cluster_bits; }
  uint64_t sub_size() const { return uint64_t{1} << sub_bits; }
  uint64_t in_cluster(uint64_t offset) const { return offset & (cluster_size() - 1); }
  uint64_t cluster_floor(uint64_t offset) const { return offset & ~(cluster_size() - 1); }
  uint64_t cluster_ceil(uint64_t offset) const { return cluster_floor(offset + cluster_size() - 1); }
  uint64_t sub_floor(uint64_t offset) const { return offset & ~(sub_size() - 1); }
  uint64_t sub_ceil(uint64_t offset) const { return sub_floor(offset + sub_size() - 1); }
  unsigned sub_index(uint64_t offset) const { return static_cast<unsigned>(in_cluster(offset) >> sub_bits); }
  uint64_t l1_index(uint64_t guest) const { return guest >> (cluster_bits + l2_bits); }
  uint64_t l2_index(uint64_t guest) const { return (guest >> cluster_bits) & ((uint64_t{1} << l2_bits) - 1); }
  // The bytes of the guest that one L2 table maps, and where the one that maps `guest` ends.
  uint64_t table_reach() const { return uint64_t{1} << (cluster_bits + l2_bits); }
  uint64_t table_end(uint64_t guest) const { return (guest & ~(table_reach() - 1)) + table_reach(); }
};

struct Entry {
  uint64_t word = 0;
  uint64_t bitmap = 0;  // extended: bit x: subcluster x is allocated; bit 32 + x: it is zeroes
};
inline constexpr uint64_t kAllSubclusters = 0xffffffff;  // as allocation bits; << 32 as zero bits

Entry load_entry(const Layout&, std::span<const std::byte> table, uint64_t index);
void store_entry(const Layout&, std::span<std::byte> table, uint64_t index, const Entry&);

// Bits of the subclusters [first, end) among the low 32.
inline uint64_t subcluster_bits(unsigned first, unsigned end) {
  return ((uint64_t{1} << end) - 1) & ~((uint64_t{1} << first) - 1);
}

enum class Cover : uint8_t { unallocated, zero, data, compressed };

// Guest bytes in one state.
struct Run {
  Cover cover = Cover::unallocated;
  bool has_host = false;  // a host cluster belongs to it (data always; zero and unallocated perhaps)
  bool copied = false;    // that cluster is ours alone: it may be written in place
  uint64_t host = 0;      // where the first byte is; compressed: the entry's word
  uint64_t length = 0;

  bool in_place() const { return cover == Cover::data && copied; }
  // Writing needs no new cluster.
  bool keeps_host() const { return has_host && copied && cover != Cover::compressed; }
};

// What the entry says about one of its subclusters; host is the subcluster's, length its size (compressed:
// the cluster's). Errc::corrupt: contradictions, offsets off the cluster's grid.
Result<Run> describe(const Layout&, const Entry&, unsigned subcluster);

enum class Purpose : uint8_t {
  read,   // runs end where the contents' place changes
  write,  // and also where what has to be done to write them changes
};

// The run at `guest`, at most `length` bytes and never past the table's reach. host is that of `guest`
// itself.
Result<Run> find_run(const Layout&, std::span<const std::byte> table, uint64_t guest, uint64_t length,
                     Purpose purpose);

}  // namespace minivmm::qcow2
