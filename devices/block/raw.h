// A raw image: a file or a block device whose bytes are the disk's.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "devices/block/block_backend.h"
#include "devices/block/block_file.h"

namespace minivmm {

class RawImage final : public BlockBackend {
 public:
  // A size that is no multiple of 512 is rounded down: the guest cannot reach the last partial sector, and
  // nothing is lost of it. Throws HostError: as BlockFile::open(), or smaller than a sector.
  static std::unique_ptr<RawImage> open(const std::string& path, const BlockFileOptions& options);
  static std::unique_ptr<RawImage> open(std::unique_ptr<BlockFile> file);

  uint64_t capacity() const override { return capacity_.load(std::memory_order_acquire); }
  uint64_t ignored_bytes() const { return ignored_; }  // of a last partial sector, when it was opened
  bool read_only() const override { return file_->read_only(); }
  BlockGeometry geometry() const override { return geometry_; }
  std::string_view format() const override { return "raw"; }

  Task<Result<void>> run(IoEngine&, BlockRequest) override;
  bool read_now(uint64_t offset, uint64_t length, std::span<const iovec> data) override {
    return file_->read_now(offset, length, data);
  }
  Task<Result<BlockExtent>> extent(IoEngine&, uint64_t offset, uint64_t length) override;
  Task<Result<void>> resize(IoEngine&, uint64_t capacity_bytes) override;
  Task<Result<void>> refresh(IoEngine&) override;
  Task<Result<void>> close(IoEngine&) override;

 private:
  explicit RawImage(std::unique_ptr<BlockFile> file);

  std::unique_ptr<BlockFile> file_;
  std::atomic<uint64_t> capacity_;
  uint64_t ignored_;
  BlockGeometry geometry_;
};

}  // namespace minivmm
