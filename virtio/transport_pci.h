// virtio over PCI (virtio 1.2, 4.1), modern only: BAR 0 holds the register structures, BAR 2 the MSI-X table.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "devices/pci/function.h"
#include "virtio/transport_common.h"
#include "vmm/core/irq.h"

namespace minivmm {

class VirtioPci final : public PciFunction, private TransportWires {
 public:
  // All references outlive it; so does no vCPU that can reach it.
  VirtioPci(std::unique_ptr<VirtioDevice> device, MsiSink& sink, GuestMemory& memory, Log& log);

  VirtioTransport& transport() { return transport_; }

  void config_read(uint16_t offset, std::span<std::byte> data) override;
  void config_write(uint16_t offset, std::span<const std::byte> data) override;
  std::vector<Doorbell> doorbells(unsigned bar) override;
  void function_reset() override { transport_.reset(); }

  std::string_view state_name() const override { return name_; }  // "virtio-pci.virtio-blk.0"
  void save(StateWriter&) const override;
  Result<void> load(StateReader&) override;  // leaves the queues paused

 private:
  // BAR 0.
  class Window final : public IoDevice {
   public:
    explicit Window(VirtioPci& owner) : owner_(owner) {}
    std::string_view name() const override { return owner_.name_; }
    IoStatus read(uint64_t offset, std::span<std::byte> data) override;
    IoStatus write(uint64_t offset, std::span<const std::byte> data) override;

   private:
    VirtioPci& owner_;
  };

  void queue_used(uint16_t queue) override;
  void config_changed() override;
  void wires_reset() override;
  void route_call(uint16_t queue, int eventfd) override;

  void add_capabilities();
  uint8_t add_capability(uint8_t type, uint32_t offset, uint32_t length, uint32_t extra, bool has_extra,
                         bool writable);
  uint64_t read_common(uint64_t offset) const;
  void write_common(uint64_t offset, uint32_t v);
  void write_queue_field(uint64_t offset, uint16_t queue, uint32_t v);
  uint16_t checked_vector(uint32_t v);
  void set_queue_vector(uint16_t queue, uint16_t vector);
  bool in_config_window(uint16_t offset, size_t size) const;
  void config_window_access(bool write);

  std::string name_;
  Window window_{*this};
  uint8_t pci_cfg_capability_ = 0;  // offset of VIRTIO_PCI_CAP_PCI_CFG in the configuration space
  std::atomic<uint8_t> isr_{0};
  std::atomic<uint32_t> device_features_select_{0};
  std::atomic<uint32_t> driver_features_select_{0};
  std::atomic<uint16_t> queue_select_{0};
  std::atomic<uint16_t> config_vector_;
  std::vector<std::atomic<uint16_t>> queue_vectors_;  // read by workers
  Msix msix_;
  std::mutex calls_mutex_;     // before a vector's; what is bound is bound to the queue's vector
  std::vector<int> calls_;     // by queue; -1: none
  VirtioTransport transport_;  // last: its workers use the rest
};

}  // namespace minivmm
