#include "devices/block/qcow2/l2_entry_check.h"

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kStandardReserved = ~(kCopied | kCompressed | kOffsetMask | kZero);
constexpr uint64_t kAllSubclustersZero = uint64_t{0xffffffff} << 32;

// The file's last cluster may be there in part only.
bool outside(const Header& h, uint64_t file_bytes, uint64_t offset, uint64_t bytes) {
  const uint64_t end = (file_bytes + h.cluster_size() - 1) / h.cluster_size() * h.cluster_size();
  return offset >= file_bytes || bytes > end - offset;
}

// What the entry said is lost: the cluster reads as zeroes, or as unallocated in version 2, which has no
// other way to say so.
EntryVerdict lost(const Header& h, const char* problem) {
  EntryVerdict v;
  v.problem = problem;
  v.loses_data = true;
  if (h.extended_l2()) {
    v.bitmap = kAllSubclustersZero;
  } else if (h.version >= 3) {
    v.entry = kZero;
  }
  return v;
}

EntryVerdict judge_compressed(const Header& h, uint64_t file_bytes, uint64_t entry, uint64_t bitmap) {
  if (h.has_data_file()) return lost(h, "is compressed, which the external data file's clusters cannot be");
  const CompressedRun run = decode_compressed(entry, h.cluster_bits);
  if (run.offset < h.cluster_size() || run.offset > kOffsetMask ||
      outside(h, file_bytes, run.offset, run.bytes))
    return lost(h, "is compressed data where none can be");
  EntryVerdict v;
  v.offset = run.offset;
  v.bytes = run.bytes;
  v.compressed = true;
  v.entry = entry & ~kCopied;
  if ((entry & kCopied) != 0) v.problem = "is compressed and has the COPIED flag";
  if (bitmap != 0) v.problem = "is compressed and has a subcluster bitmap";
  return v;
}

// Of an extended entry's bitmap.
void judge_subclusters(const Header& h, uint64_t bitmap, EntryVerdict& v) {
  if (!h.extended_l2()) return;
  const uint64_t allocated = bitmap & 0xffffffff;
  const uint64_t zero = bitmap >> 32;
  v.bitmap = bitmap;
  if ((allocated & zero) != 0) {
    v.problem = "has subclusters that are both allocated and zero";
    v.bitmap = zero << 32 | (allocated & ~zero);
    v.loses_data = true;
  }
  if (!v.allocated && allocated != 0) {
    v.problem = "has allocated subclusters, but no host cluster";
    v.bitmap = (zero | allocated) << 32;
    v.loses_data = true;
  }
}

}  // namespace

EntryVerdict judge_l1_entry(const Header& h, uint64_t file_bytes, uint64_t entry) {
  EntryVerdict v;
  v.entry = entry & ~kL1Reserved;
  if (v.entry != entry) v.problem = "has reserved bits set";
  const uint64_t offset = entry & kOffsetMask;
  if (offset == 0) return v;
  const char* misplaced = nullptr;
  if (offset % h.cluster_size() != 0) misplaced = "refers to an L2 table that is not on a cluster boundary";
  if (!misplaced && outside(h, file_bytes, offset, h.cluster_size()))
    misplaced = "refers to an L2 table outside the file";
  if (misplaced) {
    v.problem = misplaced;
    v.entry = 0;
    v.loses_data = true;
    return v;
  }
  v.offset = offset;
  v.bytes = h.cluster_size();
  v.allocated = true;
  return v;
}

EntryVerdict judge_l2_entry(const Header& h, uint64_t file_bytes, uint64_t entry, uint64_t bitmap,
                            uint64_t guest_offset) {
  if ((entry & kCompressed) != 0) return judge_compressed(h, file_bytes, entry, bitmap);
  EntryVerdict v;
  v.entry = entry;
  // "With version 2 or with extended L2 entries, this is always 0."
  const bool has_zero_flag = h.version >= 3 && !h.extended_l2();
  const uint64_t reserved = kStandardReserved | (has_zero_flag ? 0 : kZero);
  if ((entry & reserved) != 0) {
    v.problem = "has reserved bits set";
    v.entry &= ~reserved;
  }
  const uint64_t offset = entry & kOffsetMask;
  if (h.has_data_file()) {
    // Offset 0 is a cluster's place here, if COPIED says so.
    v.allocated = offset != 0 || (entry & kCopied) != 0;
    if (v.allocated && offset != guest_offset) {
      v.problem = "is not at its guest offset in the external data file";
      v.entry = (v.entry & ~kOffsetMask) | (guest_offset & kOffsetMask);
    }
  } else if (offset != 0) {
    if (offset % h.cluster_size() != 0)
      return lost(h, "refers to a cluster that is not on a cluster boundary");
    if (outside(h, file_bytes, offset, h.cluster_size()))
      return lost(h, "refers to a cluster outside the file");
    v.allocated = true;
    v.offset = offset;
    v.bytes = h.cluster_size();
  }
  judge_subclusters(h, bitmap, v);
  return v;
}

}  // namespace minivmm::qcow2
