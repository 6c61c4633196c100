// A PCI function to put on a bus, and sinks that note what reaches them.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>

#include "devices/pci/bus.h"
#include "tests/unit/devices/fakes.h"

namespace minivmm::test {

class FakeDoorbells final : public DoorbellSink {
 public:
  Result<void> attach(Gpa region, const Doorbell& doorbell) override {
    if (refuse) return fail(Errc::no_space, "no more doorbells");
    EXPECT_TRUE(attached.emplace(value(region), doorbell.offset).second) << "attached twice";
    return {};
  }
  void detach(Gpa region, const Doorbell& doorbell) override {
    EXPECT_EQ(attached.erase({value(region), doorbell.offset}), 1U) << "detached what was not there";
  }
  std::set<std::pair<uint64_t, uint64_t>> attached;
  bool refuse = false;
};

class FakeMsi final : public MsiSink {
 public:
  Result<std::unique_ptr<MsiRoute>> allocate() override {
    if (refuse) return fail(Errc::no_space, "out of GSIs");
    ++allocated;
    return std::make_unique<Route>(*this);
  }
  std::map<uint32_t, int> delivered;  // by the message's data
  uint64_t last_address = 0;
  int allocated = 0;
  int routed = 0;
  std::map<int, uint32_t> bound;  // eventfds, with the data of the message they stood for when they were
  bool refuse = false;
  bool refuse_bind = false;

 private:
  class Route final : public MsiRoute {
   public:
    explicit Route(FakeMsi& sink) : sink_(sink) {}
    Result<void> route(const MsiMessage& message) override {
      ++sink_.routed;
      message_ = message;
      return {};
    }
    void trigger() override {
      ++sink_.delivered[message_.data];
      sink_.last_address = message_.address;
    }
    Result<void> bind(int eventfd) override {
      if (sink_.refuse_bind) return fail(Errc::no_space, "out of irqfds");
      sink_.bound[eventfd] = message_.data;
      return {};
    }
    void unbind(int eventfd) override { sink_.bound.erase(eventfd); }

   private:
    FakeMsi& sink_;
    MsiMessage message_;
  };
};

class Registers final : public IoDevice {
 public:
  std::string_view name() const override { return "registers"; }
  IoStatus read(uint64_t, std::span<std::byte> data) override {
    std::ranges::fill(data, std::byte{0});
    return IoStatus::ok;
  }
  IoStatus write(uint64_t, std::span<const std::byte>) override { return IoStatus::ok; }
};

// BAR 0: 64-bit registers with doorbells; BAR 2: MSI-X; BAR 3: small 32-bit registers; a vendor capability.
class SampleFunction final : public PciFunction {
 public:
  static constexpr uint64_t kBar0Size = 0x4000;
  static constexpr uint64_t kBar3Size = 0x20;

  SampleFunction(std::string name, MsiSink& sink, uint16_t vectors = 4)
      : PciFunction({.vendor = 0x1af4,
                     .device = 0x1042,
                     .class_code = 0x018000,
                     .revision = 1,
                     .subsystem_vendor = 0x1af4,
                     .subsystem = 0x40}),
        name_(std::move(name)),
        msix((set_bar(0, PciBarKind::memory64_prefetchable, kBar0Size, registers_), *this), 2, vectors,
             sink) {
    set_bar(3, PciBarKind::memory32, kBar3Size, small_registers_);
    const std::array body{std::byte{0x10}, std::byte{0xaa}, std::byte{0xbb}};
    const std::array writable{std::byte{0}, std::byte{0xff}, std::byte{0x0f}};
    capability = config().add_capability(kPciCapVendor, body, writable);
  }
  std::vector<Doorbell> doorbells(unsigned bar) override {
    if (bar != 0) return {};
    return {{0x3000, 0, std::nullopt, 10}, {0x3004, 2, 1, 11}};
  }
  void function_reset() override { ++resets; }
  std::string_view state_name() const override { return name_; }
  void save(StateWriter& w) const override { save_pci(w); }
  Result<void> load(StateReader& r) override { return load_pci(r); }

 private:
  std::string name_;
  Registers registers_;
  Registers small_registers_;

 public:
  Msix msix;
  uint8_t capability = 0;
  int resets = 0;
};

// Configuration space as a driver sees it through ports 0xCF8 and 0xCFC.
class ConfigAccess {
 public:
  explicit ConfigAccess(PciBus& bus) : bus_(bus) {}
  uint32_t read(unsigned slot, unsigned offset, size_t width) {
    select(slot, offset);
    std::array<std::byte, 4> data{};
    EXPECT_EQ(bus_.config_ports().read(4 + offset % 4, std::span(data).first(width)), IoStatus::ok);
    return static_cast<uint32_t>(load_le(std::span(data).first(width)));
  }
  void write(unsigned slot, unsigned offset, size_t width, uint32_t v) {
    select(slot, offset);
    std::array<std::byte, 4> data{};
    store_le(data, v);
    EXPECT_EQ(bus_.config_ports().write(4 + offset % 4, std::span(data).first(width)), IoStatus::ok);
  }

 private:
  void select(unsigned slot, unsigned offset) {
    write32(bus_.config_ports(), 0, 0x80000000 | slot << 11 | (offset & 0xfc));
  }
  PciBus& bus_;
};

inline std::optional<BusRange> place_of(const Bus& bus, const IoDevice* device) {
  for (const BusRange& range : bus.map()->ranges()) {
    if (range.device == device) return range;
  }
  return std::nullopt;
}

}  // namespace minivmm::test
