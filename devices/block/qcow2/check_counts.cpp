// The image's own counts, against the references.
#include <algorithm>

#include "devices/block/qcow2/check_walk.h"
#include "devices/block/qcow2/metadata_io.h"

namespace minivmm::qcow2 {

namespace {

// What is counted for the cluster, against what refers to it.
void compare(CheckWalk& walk, uint64_t cluster, uint64_t counted) {
  const uint64_t references = walk.references.count(cluster);
  const uint64_t offset = cluster << walk.header.cluster_bits;
  if (counted != 0 || references != 0)
    walk.result.image_end = std::max(walk.result.image_end, offset + walk.header.cluster_size());
  if (counted == references) return;
  walk.counts_differ = true;
  if (counted < references) {
    walk.counts_low = true;
    walk.corruption("cluster {:#x} has a refcount of {}, but {} references", offset, counted, references);
  } else {
    ++walk.result.leaks;
    walk.say(fmt::format("cluster {:#x} leaks: its refcount is {}, its references are {}", offset, counted,
                         references));
  }
}

// The clusters that block `index` counts, as far as the file goes.
struct Range {
  uint64_t first, end;
};
Range range_of(const CheckWalk& walk, uint64_t index) {
  const uint64_t per_block = walk.header.refcounts_per_block();
  return {index * per_block, std::min((index + 1) * per_block, walk.clusters)};
}

}  // namespace

Task<Result<void>> compare_counts(CheckWalk& walk) {
  const Header& h = walk.header;
  std::vector<std::byte> block(h.cluster_size());
  for (size_t i = 0; i < walk.refcount_table.size(); ++i) {
    const Range range = range_of(walk, i);
    if (range.first >= walk.clusters) break;
    if (walk.refcount_table[i] == 0) continue;
    const Result<void> good = co_await read_bytes(walk.engine, walk.file, walk.refcount_table[i], block);
    if (!good) co_return good;
    for (uint64_t c = range.first; c < range.end; ++c)
      compare(walk, c, load_refcount(block, h.refcount_order, c - range.first));
  }
  // What no block counts.
  for (const uint64_t chunk : walk.references.chunks()) {
    for (uint64_t c = chunk * ReferenceMap::kChunk; c < (chunk + 1) * ReferenceMap::kChunk; ++c) {
      const uint64_t index = c / h.refcounts_per_block();
      if (index >= walk.refcount_table.size() || walk.refcount_table[index] == 0) compare(walk, c, 0);
    }
  }
  co_return Result<void>();
}

Task<Result<void>> lower_counts(CheckWalk& walk) {
  const Header& h = walk.header;
  std::vector<std::byte> block(h.cluster_size());
  for (size_t i = 0; i < walk.refcount_table.size(); ++i) {
    const Range range = range_of(walk, i);
    if (range.first >= walk.clusters) break;
    if (walk.refcount_table[i] == 0) continue;
    Result<void> good = co_await read_bytes(walk.engine, walk.file, walk.refcount_table[i], block);
    if (!good) co_return good;
    bool changed = false;
    for (uint64_t c = range.first; c < range.end; ++c) {
      const uint64_t references = walk.references.count(c);
      if (load_refcount(block, h.refcount_order, c - range.first) <= references) continue;
      store_refcount(block, h.refcount_order, c - range.first, references);
      changed = true;
    }
    if (!changed) continue;
    good = co_await write_bytes(walk.engine, walk.file, walk.refcount_table[i], block);
    if (!good) co_return good;
  }
  co_return co_await walk.file.sync(walk.engine);
}

}  // namespace minivmm::qcow2
