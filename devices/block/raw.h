// A raw image: a file or a block device whose bytes are the disk's. Transfers are done by the calling thread,
// through the page cache.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "devices/block/block_backend.h"
#include "vmm/core/fd.h"

namespace minivmm {

class RawImage final : public BlockBackend {
 public:
  // Opens and locks `path`. A size that is no multiple of 512 is rounded down: the guest cannot reach the
  // last partial sector, and nothing is lost of it. Throws HostError: missing, a directory, no permission, in
  // use, smaller than a sector.
  static std::unique_ptr<RawImage> open(const std::string& path, bool read_only);
  // Takes over an open, locked descriptor of a file or block device.
  RawImage(UniqueFd fd, bool read_only, uint64_t size_bytes, const BlockGeometry&);

  uint64_t capacity() const override { return capacity_; }
  uint64_t ignored_bytes() const { return ignored_; }  // of a last partial sector
  bool read_only() const override { return read_only_; }
  BlockGeometry geometry() const override { return geometry_; }
  void submit(const BlockRequest&, BlockCompletion) override;

 private:
  Result<void> run(const BlockRequest&) const;
  Result<void> transfer(const BlockRequest&) const;
  Result<void> write_zeroes(const BlockRequest&) const;

  UniqueFd fd_;
  bool read_only_;
  uint64_t capacity_;
  uint64_t ignored_;
  BlockGeometry geometry_;
};

}  // namespace minivmm
