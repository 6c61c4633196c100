// How often each cluster of an image's file is referred to, and as what: sparse, so that a hostile file of
// any apparent size costs what it refers to, and limited.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "vmm/core/error.h"

namespace minivmm::qcow2 {

enum class ClusterUse : uint8_t {
  none,
  data,  // the guest's; also compressed
  l2,
  header,
  l1,
  refcount_table,
  refcount_block,
  snapshot_table,
  bitmap,
};
const char* to_string(ClusterUse use);

class ReferenceMap {
 public:
  static constexpr uint64_t kChunk = 1024;  // clusters
  // In bytes; enough for 16 TiB of 64 KiB clusters without a hole.
  static constexpr uint64_t kDefaultLimit = uint64_t{512} << 20;

  explicit ReferenceMap(uint64_t limit_bytes = kDefaultLimit) : chunks_left_(limit_bytes / sizeof(Chunk)) {}

  // `times` more references to `cluster`. Tells what else it is used as, where that cannot be at the same
  // time: only data and L2 tables can have several references, each from its own kind; none otherwise.
  // Errc::too_large.
  Result<ClusterUse> add(uint64_t cluster, ClusterUse use, uint64_t times = 1);

  uint64_t count(uint64_t cluster) const;
  ClusterUse use(uint64_t cluster) const;

  // The chunks that have references, ascending: chunk c is the clusters from c * kChunk on.
  std::vector<uint64_t> chunks() const;

 private:
  static constexpr unsigned kCountBits = 12;
  static constexpr uint16_t kMaxCount = (1 << kCountBits) - 1;  // then the count is in many_
  using Chunk = std::array<uint16_t, kChunk>;                   // use << kCountBits | count

  Chunk* find(uint64_t number) const;  // null: no references there
  uint16_t cell(uint64_t cluster) const;

  std::unordered_map<uint64_t, std::unique_ptr<Chunk>> chunks_;
  std::unordered_map<uint64_t, uint64_t> many_;
  uint64_t chunks_left_;
  mutable uint64_t last_number_ = ~uint64_t{0};  // the chunk last looked for: references come in runs
  mutable Chunk* last_ = nullptr;
};

}  // namespace minivmm::qcow2
