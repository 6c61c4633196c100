#include "devices/block/qcow2/reference_map.h"

#include <algorithm>

namespace minivmm::qcow2 {

const char* to_string(ClusterUse use) {
  switch (use) {
    case ClusterUse::none: return "nothing";
    case ClusterUse::data: return "data";
    case ClusterUse::l2: return "an L2 table";
    case ClusterUse::header: return "the header";
    case ClusterUse::l1: return "an L1 table";
    case ClusterUse::refcount_table: return "the refcount table";
    case ClusterUse::refcount_block: return "a refcount block";
    case ClusterUse::snapshot_table: return "the snapshot table";
    case ClusterUse::bitmap: return "a bitmap";
  }
  return "";
}

ReferenceMap::Chunk* ReferenceMap::find(uint64_t number) const {
  if (number != last_number_) {
    const auto found = chunks_.find(number);
    last_ = found == chunks_.end() ? nullptr : found->second.get();
    last_number_ = number;
  }
  return last_;
}

Result<ClusterUse> ReferenceMap::add(uint64_t cluster, ClusterUse use, uint64_t times) {
  Chunk* chunk = find(cluster / kChunk);
  if (!chunk) {
    if (chunks_left_ == 0)
      return fail(Errc::too_large, "the image refers to more clusters than can be counted");
    --chunks_left_;
    chunk = last_ = (chunks_[last_number_] = std::make_unique<Chunk>()).get();
  }
  uint16_t& cell = (*chunk)[cluster % kChunk];
  const auto before = static_cast<ClusterUse>(cell >> kCountBits);
  const uint64_t total = count(cluster) + times;
  if (total >= kMaxCount) many_[cluster] = total;
  const uint64_t stored = std::min<uint64_t>(total, kMaxCount);
  // What is there first keeps its name, but for data: metadata matters more.
  const ClusterUse name = before == ClusterUse::none || before == ClusterUse::data ? use : before;
  cell = static_cast<uint16_t>(static_cast<uint64_t>(name) << kCountBits | stored);
  if (before == use && (use == ClusterUse::data || use == ClusterUse::l2)) return ClusterUse::none;
  return before;
}

uint16_t ReferenceMap::cell(uint64_t cluster) const {
  const Chunk* chunk = find(cluster / kChunk);
  return chunk ? (*chunk)[cluster % kChunk] : uint16_t{0};
}

uint64_t ReferenceMap::count(uint64_t cluster) const {
  const uint64_t stored = cell(cluster) & kMaxCount;
  return stored < kMaxCount ? stored : many_.at(cluster);
}

ClusterUse ReferenceMap::use(uint64_t cluster) const {
  return static_cast<ClusterUse>(cell(cluster) >> kCountBits);
}

std::vector<uint64_t> ReferenceMap::chunks() const {
  std::vector<uint64_t> numbers;
  numbers.reserve(chunks_.size());
  for (const auto& [number, chunk] : chunks_) numbers.push_back(number);
  std::ranges::sort(numbers);
  return numbers;
}

}  // namespace minivmm::qcow2
