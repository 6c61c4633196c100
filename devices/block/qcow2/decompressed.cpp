#include "devices/block/qcow2/decompressed.h"

#include <algorithm>

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kBudgetBytes = uint64_t{4} << 20;
constexpr uint64_t kMostClusters = 64;

}  // namespace

DecompressedCache::DecompressedCache(uint64_t cluster_bytes)
    : limit_(std::clamp<uint64_t>(kBudgetBytes / cluster_bytes, 2, kMostClusters)) {}

DecompressedCache::Ptr DecompressedCache::get(uint64_t word, bool& first) {
  const std::scoped_lock guard(guard_);
  const auto found = std::ranges::find(recent_, word, [](const Ptr& one) { return one->word; });
  first = found == recent_.end();
  if (!first) {
    recent_.splice(recent_.begin(), recent_, found);
    return recent_.front();
  }
  auto cluster = std::make_shared<Cluster>();
  cluster->word = word;
  recent_.push_front(cluster);
  if (recent_.size() > limit_) recent_.pop_back();  // who waits for it holds it
  return cluster;
}

void DecompressedCache::done(const Ptr& cluster) {
  if (!cluster->status) {
    const std::scoped_lock guard(guard_);
    recent_.remove(cluster);  // the next one tries again
  }
  cluster->ready.set();
}

void DecompressedCache::forget(uint64_t word) {
  const std::scoped_lock guard(guard_);
  recent_.remove_if([word](const Ptr& one) { return one->word == word; });
}

}  // namespace minivmm::qcow2
