#include "devices/block/qcow2/mapping.h"

#include <algorithm>
#include <bit>

namespace minivmm::qcow2 {

Layout::Layout(const Header& header)
    : cluster_bits(header.cluster_bits),
      sub_bits(static_cast<unsigned>(std::countr_zero(header.subcluster_size()))),
      entry_bytes(header.l2_entry_bytes()),
      l2_bits(static_cast<unsigned>(std::countr_zero(header.l2_entries()))),
      refcount_order(header.refcount_order),
      zero_flag(header.version >= 3),
      extended(header.extended_l2()),
      data_file(header.has_data_file()) {}

Entry load_entry(const Layout& layout, std::span<const std::byte> table, uint64_t index) {
  const std::byte* at = table.data() + index * layout.entry_bytes;
  return {load_be64(at), layout.extended ? load_be64(at + 8) : 0};
}

void store_entry(const Layout& layout, std::span<std::byte> table, uint64_t index, const Entry& entry) {
  std::byte* at = table.data() + index * layout.entry_bytes;
  store_be64(at, entry.word);
  if (layout.extended) store_be64(at + 8, entry.bitmap);
}

Result<Run> describe(const Layout& layout, const Entry& entry, unsigned subcluster) {
  Run run;
  run.length = layout.sub_size();
  if ((entry.word & kCompressed) != 0) {
    if (layout.data_file) return fail(Errc::corrupt, "a compressed cluster beside an external data file");
    run.cover = Cover::compressed;
    run.host = entry.word;
    run.length = layout.cluster_size();
    return run;
  }
  run.host = entry.word & kOffsetMask;
  run.copied = (entry.word & kCopied) != 0;
  // With an external data file, offset 0 is one like others where COPIED is set.
  run.has_host = run.host != 0 || (layout.data_file && run.copied);
  if (layout.in_cluster(run.host) != 0)
    return fail(Errc::corrupt, "an L2 entry points beside the cluster grid");
  if (layout.extended) {
    const bool allocated = (entry.bitmap >> subcluster & 1) != 0;
    const bool zero = (entry.bitmap >> (kSubclusters + subcluster) & 1) != 0;
    if (allocated && (zero || !run.has_host))
      return fail(Errc::corrupt, "a subcluster is in two states at once");
    if (zero) {
      run.cover = Cover::zero;
    } else if (allocated) {
      run.cover = Cover::data;
    }
    run.host += uint64_t{subcluster} << layout.sub_bits;
  } else if ((entry.word & kZero) != 0) {
    if (!layout.zero_flag) return fail(Errc::corrupt, "a zero cluster in an image of version 2");
    run.cover = Cover::zero;
  } else if (run.has_host) {
    run.cover = Cover::data;
  }
  return run;
}

namespace {

bool goes_on(const Run& run, const Run& next, Purpose purpose) {
  if (run.cover != next.cover || run.cover == Cover::compressed) return false;
  if (run.cover == Cover::data && next.host != run.host + run.length) return false;
  if (purpose == Purpose::read) return true;
  return run.has_host == next.has_host && run.copied == next.copied &&
         (!run.has_host || next.host == run.host + run.length);
}

}  // namespace

Result<Run> find_run(const Layout& layout, std::span<const std::byte> table, uint64_t guest, uint64_t length,
                     Purpose purpose) {
  const uint64_t end = std::min(guest + length, layout.table_end(guest));
  uint64_t index = layout.l2_index(guest);
  unsigned sub = layout.sub_index(guest);
  const unsigned subs = 1U << (layout.cluster_bits - layout.sub_bits);
  auto run = describe(layout, load_entry(layout, table, index), sub);
  if (!run) return run;
  // From here on the run begins at its first (sub)cluster's start.
  const uint64_t start =
      run->cover == Cover::compressed ? layout.cluster_floor(guest) : layout.sub_floor(guest);
  while (run->cover != Cover::compressed && start + run->length < end) {
    if (++sub == subs) {
      sub = 0;
      ++index;
    }
    const auto next = describe(layout, load_entry(layout, table, index), sub);
    if (!next || !goes_on(*run, *next, purpose)) break;  // the error is for the request that gets there
    run->length += next->length;
  }
  const uint64_t skipped = guest - start;
  if (run->cover != Cover::compressed) run->host += skipped;
  run->length = std::min(run->length - skipped, end - guest);
  return run;
}

}  // namespace minivmm::qcow2
