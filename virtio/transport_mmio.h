// virtio over MMIO, version 2 (virtio 1.2, 4.2): one page of registers, one interrupt wire.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "virtio/transport_common.h"
#include "vmm/core/irq.h"

namespace minivmm {

inline constexpr uint64_t kVirtioMmioSize = 0x1000;  // bytes of its window

class VirtioMmio final : public IoDevice, public StateUnit, private TransportWires {
 public:
  // `irq` is edge-triggered: each notification pulses it. All references outlive the transport.
  VirtioMmio(std::unique_ptr<VirtioDevice> device, IrqLine& irq, GuestMemory& memory, Log& log);

  VirtioTransport& transport() { return transport_; }
  // To attach where the window is placed; a write that none of them takes comes to write().
  std::vector<Doorbell> doorbells() const;

  // Machine reset.
  void reset() { transport_.reset(); }

  std::string_view name() const override { return name_; }
  IoStatus read(uint64_t offset, std::span<std::byte> data) override;
  IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

  std::string_view state_name() const override { return name_; }  // "virtio-mmio.virtio-blk.0"
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;  // leaves the queues paused

 private:
  void queue_used(uint16_t queue) override;
  void config_changed() override;
  void wires_reset() override;

  uint32_t read_register(uint64_t offset) const;
  bool write_register(uint64_t offset, uint32_t v);  // false: no such register, or read-only
  void write_queue_register(uint64_t offset, uint32_t v);

  IrqLine& irq_;
  std::string name_;
  std::atomic<uint32_t> interrupt_status_{0};
  std::atomic<uint32_t> device_features_select_{0};
  std::atomic<uint32_t> driver_features_select_{0};
  std::atomic<uint32_t> queue_select_{0};
  VirtioTransport transport_;  // last: its workers use the rest
};

}  // namespace minivmm
