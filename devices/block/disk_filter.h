// A disk over another one, which it owns: the same to look at; requests pass through run().
#pragma once

#include <memory>
#include <utility>

#include "devices/block/block_backend.h"

namespace minivmm {

class DiskFilter : public BlockBackend {
 public:
  explicit DiskFilter(std::unique_ptr<BlockBackend> below) : below_(std::move(below)) {}

  uint64_t capacity() const override { return below_->capacity(); }
  bool read_only() const override { return below_->read_only(); }
  BlockGeometry geometry() const override { return below_->geometry(); }
  std::string_view format() const override { return below_->format(); }
  Task<Result<BlockExtent>> extent(IoEngine& engine, uint64_t offset, uint64_t length) override {
    return below_->extent(engine, offset, length);
  }
  Task<Result<void>> resize(IoEngine& engine, uint64_t capacity_bytes) override {
    return below_->resize(engine, capacity_bytes);
  }
  Task<Result<void>> refresh(IoEngine& engine) override { return below_->refresh(engine); }
  Task<Result<void>> close(IoEngine& engine) override { return below_->close(engine); }

 protected:
  BlockBackend& below() { return *below_; }

 private:
  std::unique_ptr<BlockBackend> below_;
};

}  // namespace minivmm
