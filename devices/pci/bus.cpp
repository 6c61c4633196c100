#include "devices/pci/bus.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "vmm/core/state.h"

namespace minivmm {

namespace {

// CONFIG_ADDRESS (PCI 3.0, 3.2.2.3.2).
constexpr uint32_t kAddressEnable = 0x80000000;
constexpr uint32_t kAddressWritable = 0x80fffffc;

constexpr uint16_t kFieldAddress = 1;
constexpr uint16_t kFieldHostBridge = 2;

// The registers whose writes can move a window: command and BARs.
bool moves_windows(uint16_t offset, size_t width) {
  const auto touches = [&](unsigned first, unsigned end) { return offset < end && offset + width > first; };
  return touches(0x04, 0x06) || touches(0x10, 0x28);
}

// Nothing but an identity: Red Hat's generic PCIe host bridge, which Linux has no quirks for.
class HostBridge final : public PciFunction {
 public:
  HostBridge() : PciFunction({.vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000}) {}
  std::string_view state_name() const override { return "pci-host-bridge"; }
  void save(StateWriter& w) const override { save_pci(w); }
  Result<void> load(StateReader& r) override { return load_pci(r); }
  void function_reset() override {}
};

bool good_width(size_t width) {
  return width == 1 || width == 2 || width == 4;
}

// Within the four data ports.
bool good_data_access(uint64_t offset, size_t width) {
  return good_width(width) && offset >= 4 && offset < kPciConfigPortsSize &&
         width <= kPciConfigPortsSize - offset;
}

}  // namespace

PciBus::PciBus(Bus& mmio, DoorbellSink& doorbells, Options options, Log& log)
    : mmio_(mmio),
      doorbell_sink_(doorbells),
      options_(std::move(options)),
      log_(log),
      host_bridge_(std::make_unique<HostBridge>()) {
  slots_[0].function = host_bridge_.get();
}

PciBus::~PciBus() {
  const std::scoped_lock lock(mutex_);
  for (Slot& slot : slots_) {
    for (Placed& placed : slot.bars) unplace(placed);
    if (slot.function != nullptr) slot.function->bus_ = nullptr;
  }
}

Result<void> PciBus::add(unsigned slot, PciFunction& function) {
  const std::scoped_lock lock(mutex_);
  if (slot >= kPciSlots) return fail(Errc::out_of_range, "a PCI bus has 32 slots");
  if (slots_[slot].function != nullptr) return fail(Errc::no_space, "the PCI slot is taken");
  MV_CHECK(function.bus_ == nullptr);
  slots_[slot].function = &function;
  function.bus_ = this;
  replace_windows();
  return {};
}

void PciBus::forget(PciFunction& function) {
  const std::scoped_lock lock(mutex_);
  for (Slot& slot : slots_) {
    if (slot.function != &function) continue;
    for (Placed& placed : slot.bars) unplace(placed);
    slot.function = nullptr;
  }
  function.bus_ = nullptr;
}

void PciBus::function_loaded() {
  const std::scoped_lock lock(mutex_);
  replace_windows();
}

void PciBus::unplace(Placed& placed) {
  if (placed.size == 0) return;
  for (const Doorbell& doorbell : placed.doorbells) doorbell_sink_.detach(Gpa{placed.base}, doorbell);
  mmio_.remove(placed.base, placed.device);
  placed = {};
}

void PciBus::place(Slot& slot, unsigned bar, const Window& wanted) {
  if (options_.overlaps_ram && options_.overlaps_ram(Gpa{wanted.base}, wanted.size)) return;
  IoDevice* device = slot.function->bar_device(bar);
  if (!mmio_.insert({wanted.base, wanted.size, device})) return;
  Placed& placed = slot.bars[bar];
  placed = {wanted.base, wanted.size, device, {}};
  for (const Doorbell& doorbell : slot.function->doorbells(bar)) {
    if (doorbell_sink_.attach(Gpa{wanted.base}, doorbell)) {
      placed.doorbells.push_back(doorbell);
    } else {
      log_.guest_fault("pci", "a doorbell cannot be attached: its writes take the slow way");
    }
  }
}

// Two passes over all functions, so that BARs may swap places, and a window that had no room gets it when the
// other goes away: as a real bus would decode it.
void PciBus::replace_windows() {
  const auto wanted = [](const PciFunction& function, unsigned bar) -> Window {
    const PciConfigSpace& config = function.config();
    if (!config.memory_enabled() || config.bar_kind(bar) == PciBarKind::none) return {};
    if (function.bar_device(bar) == nullptr || config.bar_address(bar) == 0) return {};  // 0: no place yet
    return {config.bar_address(bar), config.bar_size(bar)};
  };
  for (Slot& slot : slots_) {
    if (slot.function == nullptr) continue;
    for (unsigned bar = 0; bar < kPciBars; ++bar) {
      Placed& placed = slot.bars[bar];
      const Window window = wanted(*slot.function, bar);
      if (placed.base != window.base || placed.size != window.size) unplace(placed);
    }
  }
  for (Slot& slot : slots_) {
    if (slot.function == nullptr) continue;
    for (unsigned bar = 0; bar < kPciBars; ++bar) {
      const Window window = wanted(*slot.function, bar);
      if (window.size != 0 && slot.bars[bar].size == 0) place(slot, bar, window);
    }
  }
}

void PciBus::assign_bars_locked(bool& all_fit) {
  struct Todo {
    PciFunction* function;
    size_t order;  // of slots, then BARs
    unsigned bar;
    uint64_t size;
  };
  std::vector<Todo> todo;
  std::vector<Window> taken;
  for (Slot& slot : slots_) {
    if (slot.function == nullptr) continue;
    const PciConfigSpace& config = slot.function->config();
    for (unsigned bar = 0; bar < kPciBars; ++bar) {
      if (config.bar_kind(bar) == PciBarKind::none) continue;
      if (config.bar_address(bar) == 0) {
        todo.push_back({slot.function, todo.size(), bar, config.bar_size(bar)});
      } else {
        taken.push_back({config.bar_address(bar), config.bar_size(bar)});
      }
    }
  }
  // Largest first wastes least; in order of slots, so that an address depends only on the machine's make-up.
  std::ranges::sort(todo, [](const Todo& a, const Todo& b) {
    return std::tie(b.size, a.order) < std::tie(a.size, b.order);
  });

  const auto find_room = [&](const Window& window, uint64_t size) -> uint64_t {
    if (window.size < size) return 0;
    const uint64_t last = window.base + (window.size - size);  // the last base that fits
    uint64_t base = (window.base + size - 1) & ~(size - 1);
    while (base <= last && base != 0) {
      const auto hit = std::ranges::find_if(
          taken, [&](const Window& w) { return base < w.base + w.size && w.base < base + size; });
      if (hit == taken.end()) return base;
      base = (hit->base + hit->size + size - 1) & ~(size - 1);
    }
    return 0;
  };
  for (const Todo& item : todo) {
    const bool wide = item.function->config().bar_kind(item.bar) != PciBarKind::memory32;
    uint64_t base = wide ? find_room(options_.mmio64, item.size) : 0;
    if (base == 0) base = find_room(options_.mmio32, item.size);
    if (base == 0) {
      all_fit = false;
      continue;
    }
    taken.push_back({base, item.size});
    item.function->config().set_bar_address(item.bar, base);
  }
  for (Slot& slot : slots_) {
    if (slot.function == nullptr || slot.function == host_bridge_.get()) continue;
    PciConfigSpace& config = slot.function->config();
    config.set16(0x04, config.command() | kPciCommandMemory);
  }
  replace_windows();
}

Result<void> PciBus::assign_bars() {
  const std::scoped_lock lock(mutex_);
  bool all_fit = true;
  assign_bars_locked(all_fit);
  if (!all_fit) return fail(Errc::no_space, "the PCI windows are too small for all BARs");
  return {};
}

void PciBus::reset() {
  const std::scoped_lock lock(mutex_);
  address_ = 0;
  for (Slot& slot : slots_) {
    if (slot.function == nullptr) continue;
    slot.function->function_reset();
    slot.function->config_.reset();
    if (slot.function->msix_ != nullptr) slot.function->msix_->reset();
  }
  bool all_fit = true;
  assign_bars_locked(all_fit);  // what fitted at the start fits again
}

void PciBus::config_read(unsigned slot, unsigned function, uint16_t offset, std::span<std::byte> data) {
  if (function != 0 || slots_[slot].function == nullptr) {
    std::ranges::fill(data, std::byte{0xff});  // master abort: nobody there
    return;
  }
  slots_[slot].function->config_read(offset, data);
}

void PciBus::config_write(unsigned slot, unsigned function, uint16_t offset,
                          std::span<const std::byte> data) {
  if (function != 0 || slots_[slot].function == nullptr) return;
  slots_[slot].function->config_write(offset, data);
  if (moves_windows(offset, data.size())) replace_windows();
}

IoStatus PciBus::ConfigPorts::read(uint64_t offset, std::span<std::byte> data) {
  const std::scoped_lock lock(bus_.mutex_);
  if (offset == 0 && data.size() == 4) {
    store_le(data, bus_.address_);
    return IoStatus::ok;
  }
  std::ranges::fill(data, std::byte{0xff});
  if (!good_data_access(offset, data.size())) return IoStatus::bad_access;
  const uint32_t address = bus_.address_;
  if ((address & kAddressEnable) == 0 || (address >> 16 & 0xff) != 0) return IoStatus::ok;
  bus_.config_read(address >> 11 & 0x1f, address >> 8 & 0x7,
                   static_cast<uint16_t>((address & 0xfc) + (offset - 4)), data);
  return IoStatus::ok;
}

IoStatus PciBus::ConfigPorts::write(uint64_t offset, std::span<const std::byte> data) {
  const std::scoped_lock lock(bus_.mutex_);
  // Only a whole dword reaches CONFIG_ADDRESS; Linux probes with a byte to 0xCFB first, which must do
  // nothing.
  if (offset == 0 && data.size() == 4) {
    bus_.address_ = static_cast<uint32_t>(load_le(data)) & kAddressWritable;
    return IoStatus::ok;
  }
  if (!good_data_access(offset, data.size())) return IoStatus::bad_access;
  const uint32_t address = bus_.address_;
  if ((address & kAddressEnable) == 0 || (address >> 16 & 0xff) != 0) return IoStatus::ok;
  bus_.config_write(address >> 11 & 0x1f, address >> 8 & 0x7,
                    static_cast<uint16_t>((address & 0xfc) + (offset - 4)), data);
  return IoStatus::ok;
}

// An offset in ECAM (PCI Express 3.0, 7.2.2): bus, device 5 bits, function 3 bits, register 12 bits.
IoStatus PciBus::Ecam::read(uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0xff});
  if (!good_width(data.size()) || offset % data.size() != 0 || offset >= kPciEcamSize)
    return IoStatus::bad_access;
  const std::scoped_lock lock(bus_.mutex_);
  bus_.config_read(static_cast<unsigned>(offset >> 15 & 0x1f), static_cast<unsigned>(offset >> 12 & 0x7),
                   static_cast<uint16_t>(offset & 0xfff), data);
  return IoStatus::ok;
}

IoStatus PciBus::Ecam::write(uint64_t offset, std::span<const std::byte> data) {
  if (!good_width(data.size()) || offset % data.size() != 0 || offset >= kPciEcamSize)
    return IoStatus::bad_access;
  const std::scoped_lock lock(bus_.mutex_);
  bus_.config_write(static_cast<unsigned>(offset >> 15 & 0x1f), static_cast<unsigned>(offset >> 12 & 0x7),
                    static_cast<uint16_t>(offset & 0xfff), data);
  return IoStatus::ok;
}

void PciBus::save(StateWriter& w) const {
  const std::scoped_lock lock(mutex_);
  w.field(kFieldAddress, address_);
  w.group(kFieldHostBridge, [this](StateWriter& group) { host_bridge_->save(group); });
}

Result<void> PciBus::load(StateReader& r) {
  auto address = r.need<uint32_t>(kFieldAddress);
  if (!address) return std::unexpected(address.error());
  auto bridge = r.groups(kFieldHostBridge, 1);
  if (!bridge) return std::unexpected(bridge.error());
  if (bridge->size() != 1) return fail(Errc::corrupt, "the saved PCI bus has no host bridge");
  if (auto done = r.finish(); !done) return done;
  const std::scoped_lock lock(mutex_);
  if (auto loaded = host_bridge_->load(bridge->front()); !loaded) return loaded;  // it is on no bus_: no lock
  address_ = *address & kAddressWritable;
  return {};
}

}  // namespace minivmm
