// The clusters that were decompressed last, so that a sequence of small reads decompresses each but once,
// also where the reads are in flight together.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "devices/block/io_sync.h"
#include "vmm/core/error.h"

namespace minivmm::qcow2 {

class DecompressedCache {
 public:
  struct Cluster {
    uint64_t word = 0;             // of the L2 entry: where it is stored
    std::vector<std::byte> bytes;  // both valid once `ready`
    Result<void> status;
    IoEvent ready;
  };
  using Ptr = std::shared_ptr<Cluster>;

  explicit DecompressedCache(uint64_t cluster_bytes);

  // `first`: the caller fills bytes and status, then calls done(); else it waits for `ready`. Thread-safe, as
  // the others are.
  Ptr get(uint64_t word, bool& first);
  void done(const Ptr& cluster);
  // What is stored there will change.
  void forget(uint64_t word);

 private:
  std::mutex guard_;
  size_t limit_;  // clusters
  std::list<Ptr> recent_;
};

}  // namespace minivmm::qcow2
