// A raw disk whose format was guessed: the guest may write what it likes, but not a first sector that would
// make us, or another program, take the disk for another format the next time. Otherwise a guest that writes
// a qcow2 header could name any file of the host as its backing file and read it (CVE-2026-27211).
#pragma once

#include <memory>

#include "devices/block/block_backend.h"

namespace minivmm {

class GuessedRaw final : public BlockBackend {
 public:
  explicit GuessedRaw(std::unique_ptr<BlockBackend> disk) : disk_(std::move(disk)) {}

  uint64_t capacity() const override { return disk_->capacity(); }
  bool read_only() const override { return disk_->read_only(); }
  BlockGeometry geometry() const override { return disk_->geometry(); }
  std::string_view format() const override { return disk_->format(); }

  // A write of such a first sector ends with Errc::io, and nothing of it is written.
  Task<Result<void>> run(IoEngine&, BlockRequest) override;
  Task<Result<BlockExtent>> extent(IoEngine& engine, uint64_t offset, uint64_t length) override {
    return disk_->extent(engine, offset, length);
  }
  Task<Result<void>> resize(IoEngine& engine, uint64_t capacity_bytes) override {
    return disk_->resize(engine, capacity_bytes);
  }
  Task<Result<void>> close(IoEngine& engine) override { return disk_->close(engine); }

 private:
  Task<Result<void>> write_first_sector(IoEngine&, BlockRequest);

  std::unique_ptr<BlockBackend> disk_;
};

}  // namespace minivmm
