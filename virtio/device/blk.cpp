#include "virtio/device/blk.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <utility>

#include "devices/block/disk_set.h"
#include "devices/block/disk_spec.h"
#include "devices/block/patient_disk.h"
#include "devices/block/throttled_disk.h"
#include "virtio/device/blk_queue.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {

constexpr uint16_t kQueueSize = 256;
constexpr unsigned kDefaultMaxQueues = 8;  // where the user does not say: one a CPU, and no more than this

// 5.2.4, up to what the features we offer cover.
struct [[gnu::packed]] Config {
  uint64_t capacity;  // in sectors
  uint32_t size_max;
  uint32_t seg_max;
  uint16_t cylinders;
  uint8_t heads;
  uint8_t sectors;
  uint32_t blk_size;
  uint8_t physical_block_exp;
  uint8_t alignment_offset;
  uint16_t min_io_size;  // in blocks
  uint32_t opt_io_size;
  uint8_t writeback;
  uint8_t unused0;
  uint16_t num_queues;
  uint32_t max_discard_sectors;
  uint32_t max_discard_seg;
  uint32_t discard_sector_alignment;
  uint32_t max_write_zeroes_sectors;
  uint32_t max_write_zeroes_seg;
  uint8_t write_zeroes_may_unmap;
  uint8_t unused1[3];
};
static_assert(sizeof(Config) == 60);
static_assert(kMaxDiskQueues == VirtioBlk::kMaxQueues && kMaxDiskSerial == blk::kIdBytes);

enum Field : uint16_t { kCapacity = 1, kQueues = 2, kReadOnly = 3, kSerial = 4 };

uint16_t default_queues(unsigned cpus) {
  return static_cast<uint16_t>(std::clamp(cpus, 1U, kDefaultMaxQueues));
}

// The disk with what the user wants of it beside its bytes.
std::unique_ptr<BlockBackend> dress(std::unique_ptr<BlockBackend> disk, const DiskSpec& spec,
                                    const CreateContext& context) {
  if (spec.pause_when_full && !disk->read_only() && context.stalls != nullptr) {
    disk = std::make_unique<PatientDisk>(std::move(disk), fmt::format("disk {}", spec.path), *context.stalls);
  }
  if (spec.requests.per_second != 0 || spec.bytes.per_second != 0) {
    disk = std::make_unique<ThrottledDisk>(std::move(disk), spec.requests, spec.bytes);
  }
  return disk;
}

}  // namespace

VirtioBlk::VirtioBlk(std::unique_ptr<BlockBackend> disk, Options options)
    : disk_(std::move(disk)),
      options_(std::move(options)),
      name_(fmt::format("virtio-blk.{}", options_.index)),
      queues_(options_.queues) {
  MV_CHECK(options_.queues >= 1 && options_.queues <= kMaxQueues && options_.serial.size() <= blk::kIdBytes);
}

VirtioBlk::~VirtioBlk() {
  for (auto& queue : queues_) queue.reset();
  const Result<void> closed = close();
  static_cast<void>(closed);  // what was not flushed was not promised; nobody is left to be told
}

Result<void> VirtioBlk::close() {
  if (disk_->read_only() || std::exchange(closed_, true)) return {};
  try {
    const auto engine = IoEngine::create();
    return engine->run(disk_->close(*engine));
  } catch (const HostError&) {
    return fail(Errc::io, "the host has no more descriptors to close the disk with");
  }
}

uint64_t VirtioBlk::offered() const {
  using virtio::feature_bit;
  uint64_t features = feature_bit(blk::kFeatureSegMax) | feature_bit(blk::kFeatureBlkSize) |
                      feature_bit(blk::kFeatureFlush) | feature_bit(blk::kFeatureTopology) |
                      feature_bit(blk::kFeatureMq);
  if (disk_->read_only()) return features | feature_bit(blk::kFeatureReadOnly);
  if (options_.discard) features |= feature_bit(blk::kFeatureDiscard);
  return features | feature_bit(blk::kFeatureWriteZeroes);
}

VirtioTraits VirtioBlk::traits() const {
  return {.type = virtio::kDeviceBlock,
          .name = "virtio-blk",
          .pci_class = 0x018000,  // mass storage, none of the known kinds
          .features = offered(),
          .queue_sizes = std::vector<uint16_t>(options_.queues, kQueueSize),
          .config_size = sizeof(Config)};
}

void VirtioBlk::read_config(uint32_t offset, std::span<std::byte> out) const {
  const BlockGeometry geometry = disk_->geometry();
  const uint32_t ratio = geometry.physical_block / geometry.logical_block;
  Config config{};
  config.capacity = disk_->capacity() / kSectorSize;
  config.seg_max = kQueueSize - 2;  // beside the header and the status (5.2.6)
  config.blk_size = geometry.logical_block;
  config.physical_block_exp = static_cast<uint8_t>(std::countr_zero(std::bit_floor(std::max(ratio, 1U))));
  config.min_io_size = static_cast<uint16_t>(std::min(ratio, 0xffffU));
  config.opt_io_size = geometry.optimal_io / geometry.logical_block;
  config.writeback = 1;
  config.num_queues = options_.queues;
  config.max_discard_sectors = blk::kMaxRangeSectors;
  config.max_discard_seg = 1;
  config.discard_sector_alignment = geometry.physical_block / kSectorSize;
  config.max_write_zeroes_sectors = blk::kMaxRangeSectors;
  config.max_write_zeroes_seg = 1;
  config.write_zeroes_may_unmap = options_.discard ? 1 : 0;
  std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&config) + offset, out.size());
}

void VirtioBlk::ack_features(uint64_t features) {
  acked_ = features;
}

Result<void> VirtioBlk::start_queue(uint16_t index, Virtqueue&& queue, QueueContext context) {
  MV_CHECK(index < queues_.size() && !queues_[index]);
  BlkQueue::Settings settings{
      .disk = {disk_->capacity(), disk_->read_only(), options_.serial},
      .write_through = (acked_ & virtio::feature_bit(blk::kFeatureFlush)) == 0,
      .name = name_,
      .thread_name = fmt::format("blk.{} q{}", options_.index, index),
  };
  auto started = BlkQueue::start(*disk_, std::move(settings), std::move(queue), context);
  if (!started) return std::unexpected(started.error());
  queues_[index] = std::move(*started);
  return {};
}

std::optional<Virtqueue> VirtioBlk::stop_queue(uint16_t index) {
  if (index >= queues_.size() || !queues_[index]) return std::nullopt;
  Virtqueue queue = queues_[index]->stop();
  queues_[index].reset();
  return queue;
}

Result<bool> VirtioBlk::resize(std::optional<uint64_t> bytes) {
  const uint64_t before = disk_->capacity();
  if (bytes && *bytes < before) return fail(Errc::invalid, "a disk that is in use can only grow");
  try {
    const auto engine = IoEngine::create();
    auto task = bytes ? disk_->resize(*engine, *bytes) : disk_->refresh(*engine);
    const auto done = engine->run(std::move(task));
    if (!done) return std::unexpected(done.error());
  } catch (const HostError&) {
    return fail(Errc::io, "the host has no more descriptors to resize the disk with");
  }
  return disk_->capacity() != before;
}

void VirtioBlk::reset() {
  acked_ = 0;
}

void VirtioBlk::save(StateWriter& out) const {
  out.field(kCapacity, disk_->capacity());
  out.field(kQueues, options_.queues);
  out.field(kReadOnly, static_cast<uint8_t>(disk_->read_only()));
  out.text(kSerial, options_.serial);
}

Result<void> VirtioBlk::load(StateReader& in) {
  const auto capacity = in.need<uint64_t>(kCapacity);
  const auto queues = in.need<uint16_t>(kQueues);
  const auto read_only = in.need<uint8_t>(kReadOnly);
  const auto serial = in.text(kSerial, blk::kIdBytes);
  if (!capacity || !queues || !read_only || !serial)
    return fail(Errc::corrupt, "a saved disk without its shape");
  if (auto finished = in.finish(); !finished) return finished;
  if (*capacity != disk_->capacity())
    return fail(Errc::invalid, "the disk has another size than the saved one");
  if (*queues != options_.queues) return fail(Errc::invalid, "the disk has other queues than the saved one");
  if ((*read_only != 0) != disk_->read_only()) {
    return fail(Errc::invalid, "the disk is read-only where the saved one is not, or the other way round");
  }
  options_.serial = *serial;  // what the guest has seen is what it goes on seeing
  return {};
}

std::unique_ptr<VirtioDevice> create_virtio_blk(std::string_view spec, const CreateContext& context) {
  const DiskSpec parsed = parse_disk_spec(spec);
  VirtioBlk::Options options{.index = context.index,
                             .serial = parsed.serial.value_or(fmt::format("disk{}", context.index)),
                             .queues = parsed.queues.value_or(default_queues(context.cpus)),
                             .discard = parsed.discard};
  DiskSet own(DiskSet::Purpose::run, context.log);
  OpenedDisk disk = (context.disks == nullptr ? own : *context.disks).take(context.index, spec);
  return std::make_unique<VirtioBlk>(dress(std::move(disk.backend), parsed, context), std::move(options));
}

std::string example_virtio_blk_spec(const std::filesystem::path& folder) {
  const std::filesystem::path image = folder / "disk.img";
  std::ofstream(image, std::ios::app).flush();
  std::filesystem::resize_file(image, uint64_t{1} << 20);
  return image.string() + ",queues=2";
}

}  // namespace minivmm
