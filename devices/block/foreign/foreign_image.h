// A VMware, VirtualBox or Hyper-V image: read-only, read by a qemu-nbd of our own (qemu_nbd.h).
#pragma once

#include <memory>
#include <string>

#include "devices/block/block_backend.h"
#include "devices/block/block_file.h"
#include "devices/block/foreign/qemu_nbd.h"
#include "devices/block/nbd/nbd_disk.h"

namespace minivmm {

class ForeignImage final : public BlockBackend {
 public:
  // `format` is "vmdk", "vdi" or "vhdx", for ever. Throws HostError: no such image, a kind that is not read,
  // no qemu-nbd. `file` stays open, and so its lock is kept.
  static std::unique_ptr<ForeignImage> open(IoEngine& engine, std::unique_ptr<BlockFile> file,
                                            std::string_view format);

  uint64_t capacity() const override { return disk_->capacity(); }
  bool read_only() const override { return true; }
  BlockGeometry geometry() const override { return disk_->geometry(); }
  std::string_view format() const override { return format_; }

  Task<Result<void>> run(IoEngine& engine, BlockRequest request) override {
    return disk_->run(engine, request);
  }
  Task<Result<BlockExtent>> extent(IoEngine& engine, uint64_t offset, uint64_t length) override {
    return disk_->extent(engine, offset, length);
  }
  Task<Result<void>> resize(IoEngine&, uint64_t capacity_bytes) override;
  Task<Result<void>> close(IoEngine& engine) override { return disk_->close(engine); }

 private:
  ForeignImage(std::unique_ptr<BlockFile> file, std::string_view format);

  std::string_view format_;
  std::unique_ptr<BlockFile> file_;
  QemuNbd server_;
  std::unique_ptr<NbdDisk> disk_;  // goes first: the server ends when its client has gone
};

}  // namespace minivmm
