// The block device (virtio 1.2, 5.2): a disk on a BlockBackend, with one or more queues.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "devices/block/block_backend.h"
#include "devices/block/disk_spec.h"
#include "virtio/registry.h"
#include "virtio/virtio_device.h"

namespace minivmm {

class BlkQueue;

class VirtioBlk final : public VirtioDevice {
 public:
  struct Options {
    unsigned index = 0;
    std::string serial;   // at most 20 bytes of ASCII; what get-id answers
    uint16_t queues = 1;  // 1 to kMaxQueues
    bool discard = true;  // offered to the guest
  };
  static constexpr uint16_t kMaxQueues = 64;

  VirtioBlk(std::unique_ptr<BlockBackend> disk, Options options);
  ~VirtioBlk() override;

  BlockBackend& disk() { return *disk_; }

  VirtioTraits traits() const override;
  void read_config(uint32_t offset, std::span<std::byte> out) const override;
  void write_config(uint32_t, std::span<const std::byte>) override {}  // writeback mode is not offered
  void ack_features(uint64_t features) override;
  Result<void> start_queue(uint16_t index, Virtqueue&&, QueueContext) override;
  std::optional<Virtqueue> stop_queue(uint16_t index) override;
  Result<bool> resize(std::optional<uint64_t> bytes) override;
  void reset() override;
  Result<void> close() override;

  // The disk's shape, which a restored machine must find again; the driver was told it and keeps it.
  std::string_view state_name() const override { return name_; }
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;

 private:
  uint64_t offered() const;

  std::unique_ptr<BlockBackend> disk_;
  Options options_;
  std::string name_;
  uint64_t acked_ = 0;
  bool closed_ = false;
  std::vector<std::unique_ptr<BlkQueue>> queues_;  // null: not running
};

std::unique_ptr<VirtioDevice> create_virtio_blk(std::string_view spec, const CreateContext&);
std::string example_virtio_blk_spec(const std::filesystem::path& folder);

inline constexpr VirtioDeviceType kVirtioBlkType{
    .name = "blk",
    .option = "--disk",
    .metavar = kDiskSpecMetavar,
    .help = kDiskSpecHelp,
    .repeatable = true,
    .default_spec = "",
    .create = create_virtio_blk,
    .example_spec = example_virtio_blk_spec,
    .absent_spec = "",
};

}  // namespace minivmm
