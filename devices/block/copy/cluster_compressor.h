// Compresses one cluster after another as qcow2 stores them; one a thread.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "devices/block/qcow2/format.h"

namespace minivmm {

class ClusterCompressor {
 public:
  virtual ~ClusterCompressor() = default;
  // The compressed bytes, valid until the next call; empty where they would not be fewer than the cluster's.
  virtual std::span<const std::byte> compress(std::span<const std::byte> cluster) = 0;
};

// `level`: zlib's 1 to 9, zstd's 1 to 22; 0: the library's default. Throws ConfigError for others, HostError
// where there is no memory.
std::unique_ptr<ClusterCompressor> make_cluster_compressor(qcow2::Compression method, int level);

}  // namespace minivmm
