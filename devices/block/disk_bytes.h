// A disk's bytes for those who look into it before its guest runs.
#pragma once

#include <memory>

#include "devices/block/block_backend.h"
#include "vmm/core/byte_sink.h"
#include "vmm/core/byte_source.h"

namespace minivmm {

// A disk's bytes, waiting for them, on one thread. Not while a queue of its device runs, unless it is only
// read.
class DiskBytes final : public ByteSource, public ByteSink {
 public:
  explicit DiskBytes(BlockBackend& disk);  // throws HostError: no descriptors left

  uint64_t size() const override { return disk_.capacity(); }
  bool read_only() const { return disk_.read_only(); }
  Result<void> read(uint64_t offset, std::span<std::byte> out) const override;
  Result<void> write(uint64_t offset, std::span<const std::byte> bytes) override;
  Result<void> flush() override;

 private:
  Result<void> run_now(const BlockRequest& request) const;

  BlockBackend& disk_;
  std::unique_ptr<IoEngine> engine_;
};

}  // namespace minivmm
