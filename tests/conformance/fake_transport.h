// How a guest's driver reaches a virtio device: the same steps through real PCI configuration space and BARs,
// or through real MMIO registers.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "devices/pci/bus.h"
#include "tests/conformance/fake_host.h"
#include "virtio/spec.h"
#include "virtio/transport_mmio.h"
#include "virtio/transport_pci.h"
#include "vmm/core/state.h"

namespace minivmm::test {

enum class TransportKind : uint8_t { pci, mmio };

class FakeTransport {
 public:
  virtual ~FakeTransport() = default;

  virtual uint32_t device_features(uint32_t select) = 0;
  virtual void set_driver_features(uint32_t select, uint32_t v) = 0;
  virtual uint8_t status() = 0;
  virtual void set_status(uint8_t v) = 0;
  virtual void select_queue(uint16_t queue) = 0;
  virtual uint32_t queue_max() = 0;
  virtual void set_queue_size(uint32_t v) = 0;
  virtual void set_queue_address(VirtioTransport::QueuePart, uint64_t address) = 0;
  virtual void enable_queue() = 0;
  virtual bool queue_enabled() = 0;
  virtual void reset_queue() = 0;                        // RING_RESET
  virtual void prepare_interrupts(uint16_t queues) = 0;  // before queues are enabled
  virtual void kick(uint16_t queue) = 0;                 // by the doorbell, as KVM does
  virtual void notify(uint32_t queue) = 0;               // by a register write, the slow path
  virtual Counter& queue_interrupts(uint16_t queue) = 0;
  virtual Counter& config_interrupts() = 0;
  virtual void read_config(uint64_t offset, std::span<std::byte> out) = 0;
  virtual uint64_t window_size() = 0;
  virtual IoDevice& window() = 0;
  virtual Gpa window_base() = 0;
  virtual VirtioTransport& transport() = 0;
  virtual StateUnit& state() = 0;
};

class FakeMmio final : public FakeTransport {
 public:
  FakeMmio(std::unique_ptr<VirtioDevice> device, GuestMemory& memory, Log& log)
      : mmio_(std::move(device), line_, memory, log) {
    for (const Doorbell& bell : mmio_.doorbells()) EXPECT_TRUE(doorbells_.attach(kBase, bell));
  }
  uint32_t device_features(uint32_t select) override {
    write(virtio::mmio::kDeviceFeaturesSel, select);
    return read(virtio::mmio::kDeviceFeatures);
  }
  void set_driver_features(uint32_t select, uint32_t v) override {
    write(virtio::mmio::kDriverFeaturesSel, select);
    write(virtio::mmio::kDriverFeatures, v);
  }
  uint8_t status() override { return static_cast<uint8_t>(read(virtio::mmio::kStatus)); }
  void set_status(uint8_t v) override { write(virtio::mmio::kStatus, v); }
  void select_queue(uint16_t queue) override { write(virtio::mmio::kQueueSel, queue); }
  uint32_t queue_max() override { return read(virtio::mmio::kQueueNumMax); }
  void set_queue_size(uint32_t v) override { write(virtio::mmio::kQueueNum, v); }
  void set_queue_address(VirtioTransport::QueuePart part, uint64_t address) override {
    const uint64_t low = virtio::mmio::kQueueDescLow + 0x10 * static_cast<uint64_t>(part);
    write(low, static_cast<uint32_t>(address));
    write(low + 4, static_cast<uint32_t>(address >> 32));
  }
  void enable_queue() override { write(virtio::mmio::kQueueReady, 1); }
  bool queue_enabled() override { return read(virtio::mmio::kQueueReady) == 1; }
  void reset_queue() override {
    write(virtio::mmio::kQueueReset, 1);
    EXPECT_EQ(read(virtio::mmio::kQueueReset), 0U);
  }
  void prepare_interrupts(uint16_t) override {}
  void kick(uint16_t queue) override { doorbells_.ring(kBase + virtio::mmio::kQueueNotify, 4, queue); }
  void notify(uint32_t queue) override { write(virtio::mmio::kQueueNotify, queue); }
  Counter& queue_interrupts(uint16_t) override { return interrupts_; }
  Counter& config_interrupts() override { return interrupts_; }
  void read_config(uint64_t offset, std::span<std::byte> out) override {
    EXPECT_EQ(mmio_.read(virtio::mmio::kConfig + offset, out), IoStatus::ok);
  }
  uint64_t window_size() override { return kVirtioMmioSize; }
  IoDevice& window() override { return mmio_; }
  Gpa window_base() override { return kBase; }
  VirtioTransport& transport() override { return mmio_.transport(); }
  StateUnit& state() override { return mmio_; }

 private:
  static constexpr Gpa kBase{0xd0000000};
  uint32_t read(uint64_t offset) {
    std::array<std::byte, 4> bytes{};
    EXPECT_EQ(mmio_.read(offset, bytes), IoStatus::ok);
    return static_cast<uint32_t>(load_le(bytes));
  }
  void write(uint64_t offset, uint32_t v) {
    std::array<std::byte, 4> bytes{};
    store_le(bytes, v);
    EXPECT_EQ(mmio_.write(offset, bytes), IoStatus::ok);
  }

  Counter interrupts_;
  FakeLine line_{interrupts_};
  FakeDoorbells doorbells_;
  VirtioMmio mmio_;
};

class FakePci final : public FakeTransport {
 public:
  FakePci(std::unique_ptr<VirtioDevice> device, GuestMemory& memory, Log& log)
      : counters_(device->traits().queue_sizes.size() + 1),
        bus_(mmio_, doorbells_, {.mmio32 = {0xc0000000, 0x10000000}, .mmio64 = {}, .overlaps_ram = {}}, log),
        pci_(std::move(device), sink_, memory, log) {
    EXPECT_TRUE(bus_.add(kSlot, pci_));
    EXPECT_TRUE(bus_.assign_bars());
    find_structures();
  }
  uint32_t device_features(uint32_t select) override {
    common(virtio::pci::kDeviceFeatureSelect, 4, select);
    return common(virtio::pci::kDeviceFeature, 4);
  }
  void set_driver_features(uint32_t select, uint32_t v) override {
    common(virtio::pci::kDriverFeatureSelect, 4, select);
    common(virtio::pci::kDriverFeature, 4, v);
  }
  uint8_t status() override { return static_cast<uint8_t>(common(virtio::pci::kDeviceStatus, 1)); }
  void set_status(uint8_t v) override { common(virtio::pci::kDeviceStatus, 1, v); }
  void select_queue(uint16_t queue) override {
    queue_ = queue;
    common(virtio::pci::kQueueSelect, 2, queue);
  }
  uint32_t queue_max() override { return common(virtio::pci::kQueueSize, 2); }
  void set_queue_size(uint32_t v) override { common(virtio::pci::kQueueSize, 2, v); }
  void set_queue_address(VirtioTransport::QueuePart part, uint64_t address) override {
    const uint64_t low = virtio::pci::kQueueDesc + 8 * static_cast<uint64_t>(part);
    common(low, 4, static_cast<uint32_t>(address));
    common(low + 4, 4, static_cast<uint32_t>(address >> 32));
  }
  void enable_queue() override {
    common(virtio::pci::kQueueMsixVector, 2, queue_ + 1U);
    EXPECT_EQ(common(virtio::pci::kQueueMsixVector, 2), queue_ + 1U);
    common(virtio::pci::kQueueEnable, 2, 1);
  }
  bool queue_enabled() override { return common(virtio::pci::kQueueEnable, 2) == 1; }
  void reset_queue() override {
    common(virtio::pci::kQueueReset, 2, 1);
    EXPECT_EQ(common(virtio::pci::kQueueReset, 2), 0U);
  }
  // Vector 0 is the configuration's, 1 + i queue i's; each sends its own number.
  void prepare_interrupts(uint16_t queues) override {
    const uint64_t table = bar(msix_bar_) + msix_table_;
    for (uint32_t i = 0; i <= queues; ++i) {
      mmio_write(table + 16 * i, 4, 0xfee00000);
      mmio_write(table + 16 * i + 4, 4, 0);
      mmio_write(table + 16 * i + 8, 4, i);
      mmio_write(table + 16 * i + 12, 4, 0);
    }
    config(msix_capability_ + 2U, 2, config(msix_capability_ + 2U, 2) | 0x8000);
    common(virtio::pci::kConfigMsixVector, 2, 0);
  }
  void kick(uint16_t queue) override {
    EXPECT_TRUE(doorbells_.ring(Gpa{notify_ + uint64_t{queue} * notify_multiplier_}, 2, queue));
  }
  void notify(uint32_t queue) override {
    mmio_write(notify_ + uint64_t{queue} * notify_multiplier_, 2, queue);
  }
  Counter& queue_interrupts(uint16_t queue) override { return counters_[queue + 1U]; }
  Counter& config_interrupts() override { return counters_[0]; }
  void read_config(uint64_t offset, std::span<std::byte> out) override {
    const BusRange* range = mmio_.map()->find(device_ + offset, out.size());
    ASSERT_NE(range, nullptr);
    EXPECT_EQ(range->device->read(device_ + offset - range->base, out), IoStatus::ok);
  }
  uint64_t window_size() override { return pci_.config().bar_size(0); }
  IoDevice& window() override { return *pci_.bar_device(0); }
  Gpa window_base() override { return Gpa{bar(0)}; }
  VirtioTransport& transport() override { return pci_.transport(); }
  StateUnit& state() override { return pci_; }

  // Configuration space of the device's slot, by the ports.
  uint32_t config(uint32_t offset, unsigned width) {
    std::array<std::byte, 4> bytes{};
    store_le(bytes, 0x80000000 | (kSlot << 11) | (offset & 0xfc));
    bus_.config_ports().write(0, bytes);
    bytes = {};
    bus_.config_ports().read(4 + offset % 4, std::span(bytes).first(width));
    return static_cast<uint32_t>(load_le(std::span(bytes).first(width)));
  }
  void config(uint32_t offset, unsigned width, uint32_t v) {
    std::array<std::byte, 4> bytes{};
    store_le(bytes, 0x80000000 | (kSlot << 11) | (offset & 0xfc));
    bus_.config_ports().write(0, bytes);
    store_le(bytes, v);
    bus_.config_ports().write(4 + offset % 4, std::span(bytes).first(width));
  }
  uint32_t common(uint64_t offset, unsigned width) { return mmio_read(common_ + offset, width); }
  void common(uint64_t offset, unsigned width, uint32_t v) { mmio_write(common_ + offset, width, v); }
  uint32_t mmio_read(uint64_t address, unsigned width) {
    std::array<std::byte, 4> bytes{};
    const BusRange* range = mmio_.map()->find(address, width);
    if (range == nullptr) return ~uint32_t{0};
    EXPECT_EQ(range->device->read(address - range->base + range->offset, std::span(bytes).first(width)),
              IoStatus::ok);
    return static_cast<uint32_t>(load_le(bytes));
  }
  void mmio_write(uint64_t address, unsigned width, uint32_t v) {
    std::array<std::byte, 4> bytes{};
    store_le(bytes, v);
    const BusRange* range = mmio_.map()->find(address, width);
    ASSERT_NE(range, nullptr);
    range->device->write(address - range->base + range->offset, std::span(bytes).first(width));
  }
  uint64_t bar(unsigned index) {
    const uint64_t low = config(0x10 + 4 * index, 4);
    const uint64_t high = (low & 6) == 4 ? config(0x14 + 4 * index, 4) : 0;
    return (high << 32) | (low & ~uint64_t{15});
  }
  uint32_t pci_cfg_capability() const { return pci_cfg_; }

 private:
  static constexpr uint32_t kSlot = 3;

  // As a driver does (virtio 1.2, 4.1.4).
  void find_structures() {
    for (uint32_t at = config(0x34, 1); at != 0; at = config(at + 1, 1)) {
      if (config(at, 1) == kPciCapMsix) {
        msix_capability_ = at;
        const uint32_t table = config(at + 4, 4);
        msix_bar_ = table & 7;
        msix_table_ = table & ~uint32_t{7};
      }
      if (config(at, 1) != kPciCapVendor) continue;
      const uint32_t type = config(at + 3, 1);
      if (type == virtio::pci::kCapPciCfg) {
        pci_cfg_ = at;
        continue;
      }
      const uint64_t address = bar(config(at + 4, 1)) + config(at + 8, 4);
      if (type == virtio::pci::kCapCommon) common_ = address;
      if (type == virtio::pci::kCapDevice) device_ = address;
      if (type == virtio::pci::kCapNotify) {
        notify_ = address;
        notify_multiplier_ = config(at + 16, 4);
      }
    }
    ASSERT_TRUE(common_ != 0 && notify_ != 0 && msix_capability_ != 0 && pci_cfg_ != 0);
  }

  std::vector<Counter> counters_;
  FakeMsiSink sink_{counters_};
  Bus mmio_;
  FakeDoorbells doorbells_;
  PciBus bus_;
  VirtioPci pci_;
  uint16_t queue_ = 0;
  uint64_t common_ = 0;
  uint64_t device_ = 0;
  uint64_t notify_ = 0;
  uint32_t notify_multiplier_ = 0;
  uint32_t msix_capability_ = 0;
  unsigned msix_bar_ = 0;
  uint32_t msix_table_ = 0;
  uint32_t pci_cfg_ = 0;
};

inline std::unique_ptr<FakeTransport> make_transport(TransportKind kind, std::unique_ptr<VirtioDevice> device,
                                                     GuestMemory& memory, Log& log) {
  if (kind == TransportKind::pci) return std::make_unique<FakePci>(std::move(device), memory, log);
  return std::make_unique<FakeMmio>(std::move(device), memory, log);
}

}  // namespace minivmm::test
