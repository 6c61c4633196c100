// Random accesses to PCI configuration space, BARs and MSI-X tables, as a hostile guest makes them: the bus's
// windows never overlap, lie where the BARs say, and doorbells are attached exactly where windows are.
#include <cstdint>
#include <set>
#include <span>
#include <utility>

#include "devices/pci/bus.h"
#include "vmm/core/state.h"

namespace minivmm {
namespace {

class Registers final : public IoDevice {
 public:
  std::string_view name() const override { return "registers"; }
  IoStatus read(uint64_t, std::span<std::byte>) override { return IoStatus::ok; }
  IoStatus write(uint64_t, std::span<const std::byte>) override { return IoStatus::ok; }
};

class Doorbells final : public DoorbellSink {
 public:
  Result<void> attach(Gpa region, const Doorbell& d) override {
    MV_CHECK(attached.emplace(value(region), d.fd).second);
    return {};
  }
  void detach(Gpa region, const Doorbell& d) override {
    MV_CHECK(attached.erase({value(region), d.fd}) == 1);
  }
  std::set<std::pair<uint64_t, int>> attached;
};

class Msis final : public MsiSink {
 public:
  Result<std::unique_ptr<MsiRoute>> allocate() override {
    if (++allocated_ > 5) return fail(Errc::no_space, "out of GSIs");
    return std::make_unique<Route>();
  }

 private:
  class Route final : public MsiRoute {
   public:
    Result<void> route(const MsiMessage& m) override {
      routed_ = true;
      if (m.address == 0) return fail(Errc::invalid, "no such message");
      return {};
    }
    void trigger() override { MV_CHECK(routed_); }
    Result<void> bind(int) override { return {}; }
    void unbind(int) override {}

   private:
    bool routed_ = false;
  };
  int allocated_ = 0;
};

class Function final : public PciFunction {
 public:
  Function(int fd, MsiSink& sink)
      : PciFunction({.vendor = 0x1af4, .device = 0x1041, .class_code = 0x020000}),
        fd_(fd),
        msix(*this, 1, 6, sink) {
    set_bar(2, PciBarKind::memory32, 0x10, small_);
    set_bar(4, PciBarKind::memory64, 0x4000, large_);
  }
  std::vector<Doorbell> doorbells(unsigned bar) override {
    if (bar != 4) return {};
    return {{0x100, 0, std::nullopt, fd_}};
  }
  void function_reset() override {}
  std::string_view state_name() const override { return "function"; }
  void save(StateWriter& w) const override { save_pci(w); }
  Result<void> load(StateReader& r) override { return load_pci(r); }

 private:
  int fd_;
  Registers small_;
  Registers large_;

 public:
  Msix msix;
};

constexpr uint64_t kRamEnd = 0x40000000;

bool is_ram(Gpa base, uint64_t) {
  return value(base) < kRamEnd;
}

void check(const Bus& mmio, const Doorbells& doorbells, std::span<Function* const> functions) {
  uint64_t end = 0;
  bool first = true;
  size_t large = 0;
  const auto map = mmio.map();
  for (const BusRange& range : map->ranges()) {
    MV_CHECK(first || range.base > end);
    first = false;
    end = range.base + (range.size - 1);
    bool known = range.base == 0xfec00000;
    for (const Function* function : functions) {
      for (unsigned bar = 0; bar < kPciBars; ++bar) {
        if (function->bar_device(bar) == nullptr || function->bar_device(bar) != range.device) continue;
        known = true;
        MV_CHECK(function->config().memory_enabled());
        MV_CHECK(function->config().bar_address(bar) == range.base && !is_ram(Gpa{range.base}, range.size));
        MV_CHECK(function->config().bar_size(bar) == range.size);
        if (bar == 4) {
          ++large;
          bool attached = false;
          for (const auto& [region, fd] : doorbells.attached) attached |= region == range.base;
          MV_CHECK(attached);
        }
      }
    }
    MV_CHECK(known);
  }
  MV_CHECK(doorbells.attached.size() == large);
}

}  // namespace
}  // namespace minivmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace minivmm;
  Log log;
  Bus mmio;
  Registers ioapic;
  MV_CHECK(mmio.insert({0xfec00000, 0x1000, &ioapic}).has_value());
  Doorbells doorbells;
  Msis msis;
  PciBus pci(
      mmio, doorbells,
      {.mmio32 = {0xc0000000, 0x100000}, .mmio64 = {uint64_t{1} << 36, 0x100000}, .overlaps_ram = is_ram},
      log);
  Function one(100, msis);
  Function two(101, msis);
  MV_CHECK(pci.add(1, one).has_value() && pci.add(2, two).has_value() && pci.assign_bars().has_value());
  const std::array<Function*, 2> functions{&one, &two};

  // Each step: what to do, a width, an offset, eight bytes of data.
  constexpr size_t kStep = 13;
  std::span input(data, size);
  for (; input.size() >= kStep; input = input.subspan(kStep)) {
    const auto step = std::as_bytes(input.first(kStep));
    const unsigned what = input[0];
    const size_t width = input[1] % 9;
    uint64_t offset = load_le(step.subspan(2, 3));
    std::array<std::byte, 8> value{};
    std::ranges::copy(step.subspan(5, 8), value.begin());
    const auto access = std::span(value).first(width);
    Function& function = *functions[what >> 7];
    switch (what % 10) {
      case 0: pci.config_ports().write(offset % 12, access); break;
      case 1: pci.config_ports().read(offset % 12, access); break;
      case 2:
        // Aimed at a function's header, which blind offsets seldom hit.
        pci.ecam().write((1 + offset % 3) << 15 | (offset >> 8 & 0x7f), access);
        break;
      case 3: pci.ecam().write(offset, access); break;
      case 4: pci.ecam().read(offset, access); break;
      case 5: function.msix.write(offset & 0x1fff, access); break;
      case 6: function.msix.read(offset & 0x1fff, access); break;
      case 7: function.msix.trigger(static_cast<uint16_t>(offset)); break;
      case 8: {
        StateWriter w;
        function.save(w);
        auto r = StateReader::parse(w.data());
        MV_CHECK(r.has_value() && functions[offset % 2]->load(*r).has_value());
        break;
      }
      default:
        if (offset % 16 == 0) pci.reset();
        break;
    }
    check(mmio, doorbells, functions);
  }
  return 0;
}
