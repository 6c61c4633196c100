#include "vmm/machine/virtio_bus.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "devices/pci/bus.h"
#include "virtio/device/blk.h"
#include "virtio/registry.h"
#include "virtio/transport_mmio.h"
#include "virtio/transport_pci.h"
#include "vmm/core/error.h"
#include "vmm/kvm/vm.h"

namespace minivmm {

namespace {

// Null where the spec says that there shall be none.
std::unique_ptr<VirtioDevice> create_device(const VirtioBus::Host& host, const MachineConfig& config,
                                            const PlannedVirtio& planned) {
  const auto types = virtio_device_types();
  const auto type = std::ranges::find(types, planned.config.type, &VirtioDeviceType::name);
  if (type == types.end())
    throw ConfigError(fmt::format("there is no virtio device type '{}'", planned.config.type));
  return type->create(planned.config.spec, {.index = planned.index,
                                            .cpus = config.cpus,
                                            .memory = config.memory,
                                            .host_page = host.memory.host_page(),
                                            .log = host.log,
                                            .time = host.time,
                                            .disks = &host.disks,
                                            .stalls = &host.stalls,
                                            .machine = host.identity,
                                            .serial = host.serial});
}

void close_device(VirtioTransport& transport, std::string& failures) {
  if (const auto closed = transport.close(); !closed) {
    failures += fmt::format("{}{}: {}", failures.empty() ? "" : "; ", transport.device().state_name(),
                            closed.error().what);
  }
}

class PciTransport final : public VirtioBus {
 public:
  PciTransport(const Host& host, const MachineConfig& config, const MachinePlan& plan)
      : bus_(host.mmio, host.vm, options(host.memory, plan), host.log) {
    for (const PlannedVirtio& planned : plan.virtio) {
      auto device = create_device(host, config, planned);
      if (!device) continue;
      note(*device);
      auto& function = *functions_.emplace_back(
          std::make_unique<VirtioPci>(std::move(device), host.vm, host.memory, host.log));
      const auto added = bus_.add(planned.slot, function);
      MV_CHECK(added);
      devices_.push_back(function.bar_device(0));
      devices_.push_back(function.bar_device(2));
    }
    if (!bus_.assign_bars())
      throw HostError(ENOSPC, "the PCI devices' windows do not fit the guest's address space");
    const auto ports =
        host.pio.insert({address_map::kPciConfig.base, address_map::kPciConfig.size, &bus_.config_ports()});
    const auto ecam =
        host.mmio.insert({address_map::kPciEcam.base, address_map::kPciEcam.size, &bus_.ecam()});
    MV_CHECK(ports && ecam);
    devices_.push_back(&bus_.config_ports());
    devices_.push_back(&bus_.ecam());
  }

  void reset() override { bus_.reset(); }
  std::string close() override {
    std::string failures;
    for (const auto& function : functions_) close_device(function->transport(), failures);
    return failures;
  }
  std::span<IoDevice* const> devices() const override { return devices_; }
  std::vector<VirtioTransport*> transports() const override {
    std::vector<VirtioTransport*> out;
    out.reserve(functions_.size());
    for (const auto& function : functions_) out.push_back(&function->transport());
    return out;
  }

 private:
  static PciBus::Options options(const GuestMemory& memory, const MachinePlan& plan) {
    return {.mmio32 = {address_map::kPciMmio32.base, address_map::kPciMmio32.size},
            .mmio64 = {plan.pci_mmio64.base, plan.pci_mmio64.size},
            .overlaps_ram = [&memory](Gpa base, uint64_t size) {
              return std::ranges::any_of(memory.regions(), [&](const GuestMemory::Region& r) {
                return value(base) < value(r.base) + r.size && value(r.base) <= value(base) + (size - 1);
              });
            }};
  }

  PciBus bus_;
  std::vector<std::unique_ptr<VirtioPci>> functions_;  // gone before the bus
  std::vector<IoDevice*> devices_;
};

class MmioTransport final : public VirtioBus {
 public:
  MmioTransport(const Host& host, const MachineConfig& config, const MachinePlan& plan) {
    for (const PlannedVirtio& planned : plan.virtio) {
      auto device = create_device(host, config, planned);
      if (!device) continue;
      note(*device);
      auto& irq = *irqs_.emplace_back(host.vm.irq_line(address_map::kVirtioMmioGsis.at(planned.slot)));
      auto& transport = *transports_.emplace_back(
          std::make_unique<VirtioMmio>(std::move(device), irq, host.memory, host.log));
      const uint64_t base = address_map::kVirtioMmio.base + planned.slot * address_map::kVirtioMmioStride;
      const auto placed = host.mmio.insert({base, kVirtioMmioSize, &transport});
      MV_CHECK(placed);
      for (const Doorbell& bell : transport.doorbells()) {
        // Where KVM cannot take one, the write exits and the transport does the same.
        [[maybe_unused]] const auto attached = host.vm.attach(Gpa{base}, bell);
      }
      devices_.push_back(&transport);
    }
  }

  void reset() override {
    for (const auto& transport : transports_) transport->reset();
  }
  std::string close() override {
    std::string failures;
    for (const auto& transport : transports_) close_device(transport->transport(), failures);
    return failures;
  }
  std::span<IoDevice* const> devices() const override { return devices_; }
  std::vector<VirtioTransport*> transports() const override {
    std::vector<VirtioTransport*> out;
    out.reserve(transports_.size());
    for (const auto& transport : transports_) out.push_back(&transport->transport());
    return out;
  }

 private:
  std::vector<std::unique_ptr<IrqLine>> irqs_;
  std::vector<std::unique_ptr<VirtioMmio>> transports_;
  std::vector<IoDevice*> devices_;
};

}  // namespace

void VirtioBus::note(VirtioDevice& device) {
  auto* blk = dynamic_cast<VirtioBlk*>(&device);
  if (blk != nullptr && first_disk_ == nullptr) first_disk_ = &blk->disk();
}

VirtioTransport* VirtioBus::find(std::string_view name) const {
  for (VirtioTransport* transport : transports()) {
    if (transport->device().state_name() == name) return transport;
  }
  return nullptr;
}

std::unique_ptr<VirtioBus> make_virtio_bus(const VirtioBus::Host& host, const MachineConfig& config,
                                           const MachinePlan& plan) {
  if (config.transport == Transport::pci) return std::make_unique<PciTransport>(host, config, plan);
  return std::make_unique<MmioTransport>(host, config, plan);
}

}  // namespace minivmm
