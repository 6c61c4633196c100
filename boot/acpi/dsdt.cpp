#include "boot/acpi/dsdt.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <string>

namespace minivmm {

namespace {

using namespace aml;  // NOLINT(google-build-using-namespace): this file is written in its words

constexpr uint64_t kFourGiB = uint64_t{1} << 32;
constexpr uint8_t kNotifyPressed = 0x80;   // ACPI 6.5, 4.8.2.2.1.1 "Power Button"
constexpr uint64_t kPowerButtonEvent = 1;  // bit 0 of the pending-events register
constexpr uint16_t kConfigPorts = 0xcf8;   // PCI's configuration mechanism #1: 8 ports

// A register window at its fixed place, with the smallest descriptor that can say it.
Code fixed_memory(const AcpiRange& range) {
  if (range.base + range.size <= kFourGiB)
    return memory32_fixed(static_cast<uint32_t>(range.base), static_cast<uint32_t>(range.size));
  return memory64_fixed(range.base, range.size);
}

// PCI Firmware 3.3, 4.5.1: of what the system asks for, it may have native control of the PCI Express
// capability structures; there is no hot-plug, no error reporting and no power management on our root bus.
Code host_bridge_osc() {
  constexpr uint64_t kExpressCapability = 1 << 4;
  constexpr uint64_t kUnknownUuid = 1 << 2;
  constexpr uint64_t kUnknownRevision = 1 << 3;
  constexpr uint64_t kMasked = 1 << 4;
  const Code status = path("CDW1");
  const Code control = path("CDW3");
  return method(
      "_OSC", 4,
      {create_dword_field(arg(3), 0, "CDW1"),
       if_then(
           equal(arg(0), uuid("33db4d5b-1ff7-401c-9657-7441c03dd766")),
           {create_dword_field(arg(3), 8, "CDW3"), store(control, local(0)),
            bit_and(local(0), integer(kExpressCapability), local(0)),
            if_then(negate(equal(arg(1), integer(1))), {bit_or(status, integer(kUnknownRevision), status)}),
            if_then(negate(equal(control, local(0))), {bit_or(status, integer(kMasked), status)}),
            store(local(0), control)}),
       otherwise({bit_or(status, integer(kUnknownUuid), status)}), give_back(arg(3))});
}

Code host_bridge_windows(const AcpiPciRoot& pci) {
  Terms windows{bus_window(0, pci.last_bus), aml::io(kConfigPorts, 8)};
  const auto add_io = [&windows](uint64_t begin, uint64_t end) {
    if (begin < end)
      windows.push_back(io_window(static_cast<uint16_t>(begin), static_cast<uint16_t>(end - 1)));
  };
  const uint64_t io_end = pci.io.base + pci.io.size;
  add_io(pci.io.base, std::min<uint64_t>(io_end, kConfigPorts));
  add_io(std::max<uint64_t>(pci.io.base, kConfigPorts + 8), io_end);
  if (pci.mmio32.size != 0) {
    windows.push_back(memory32_window(static_cast<uint32_t>(pci.mmio32.base),
                                      static_cast<uint32_t>(pci.mmio32.base + pci.mmio32.size - 1)));
  }
  if (pci.mmio64.size != 0) {
    windows.push_back(memory64_window(pci.mmio64.base, pci.mmio64.base + pci.mmio64.size - 1));
  }
  return resources(windows);
}

// One interrupt link for each kind of wiring would be the classic way; GSIs written out need no links
// (ACPI 6.5, 6.2.13), but say "level, active low", which is why active_high wires go through a link device.
std::string link_name(uint32_t gsi) {
  return fmt::format("L{:03X}", gsi & 0xfff);
}

Code interrupt_link(uint32_t gsi) {
  const Code wire = resources({interrupt({.gsi = gsi, .level_triggered = true, .shared = true})});
  return device(link_name(gsi),
                {name("_HID", eisa_id("PNP0C0F")), name("_UID", integer(gsi)), name("_PRS", wire),
                 name("_CRS", wire), method("_SRS", 1, {}), method("_DIS", 0, {})});
}

Code interrupt_routing(const AcpiPciRoot& pci) {
  Terms routes;
  for (const AcpiPciRoot::Intx& wire : pci.intx) {
    const Code address = integer((uint64_t{wire.device} << 16) | 0xffff);
    routes.push_back(wire.active_high ? package({address, integer(wire.pin),
                                                 path("\\_SB." + link_name(wire.gsi)), integer(0)})
                                      : package({address, integer(wire.pin), integer(0), integer(wire.gsi)}));
  }
  return package(routes);
}

Terms pci_devices(const AcpiPciRoot& pci) {
  Terms bridge{name("_HID", eisa_id("PNP0A08")),
               name("_CID", eisa_id("PNP0A03")),
               name("_SEG", integer(0)),
               name("_BBN", integer(0)),
               name("_UID", integer(0)),
               name("_CRS", host_bridge_windows(pci)),
               host_bridge_osc()};
  Terms devices;
  if (!pci.intx.empty()) {
    bridge.push_back(name("_PRT", interrupt_routing(pci)));
    std::vector<uint32_t> linked;
    for (const AcpiPciRoot::Intx& wire : pci.intx) {
      if (!wire.active_high || std::ranges::find(linked, wire.gsi) != linked.end()) continue;
      linked.push_back(wire.gsi);
      devices.push_back(interrupt_link(wire.gsi));
    }
  }
  devices.push_back(device("PCI0", bridge));
  if (pci.ecam.size != 0) {
    // PCI Firmware 3.3, 4.1.2: the ECAM window has to be reserved by a motherboard device.
    devices.push_back(device("MRES", {name("_HID", eisa_id("PNP0C02")), name("_UID", integer(0)),
                                      name("_CRS", resources({fixed_memory(pci.ecam)}))}));
  }
  return devices;
}

// ACPI 6.5, 5.6.9: the guest's driver calls _EVT with the interrupt's number; reading the register clears it.
Terms power_devices(const AcpiConfig& config) {
  constexpr std::array<FieldUnit, 1> kFields{{{"PEND", 32}}};
  return {
      device("PWRB", {name("_HID", eisa_id("PNP0C0C")), name("_UID", integer(0))}),
      device(
          "GED",
          {name("_HID", string("ACPI0013")), name("_UID", integer(0)),
           name("_CRS",
                resources({interrupt({.gsi = config.pm_gsi, .level_triggered = config.pm_level_triggered})})),
           io_region("PEVT", config.pm_port, 4), dword_field("PEVT", kFields),
           method("_EVT", 1,
                  {store(path("PEND"), local(0)), if_then(bit_and(local(0), integer(kPowerButtonEvent), {}),
                                                          {notify(path("\\_SB.PWRB"), kNotifyPressed)})})})};
}

Terms legacy_devices(const AcpiConfig& config) {
  Terms devices;
  for (size_t i = 0; i < config.serial.size(); ++i) {
    const AcpiSerial& port = config.serial[i];
    devices.push_back(
        device(fmt::format("COM{}", i + 1),
               {name("_HID", eisa_id("PNP0501")), name("_UID", integer(i)),
                name("_CRS", resources({aml::io(port.port, 8), interrupt({.gsi = port.gsi})}))}));
  }
  if (config.rtc_gsi) {
    devices.push_back(
        device("RTC", {name("_HID", eisa_id("PNP0B00")),
                       name("_CRS", resources({aml::io(0x70, 2), interrupt({.gsi = *config.rtc_gsi})}))}));
  }
  if (config.has_i8042) {
    devices.push_back(device(
        "KBD", {name("_HID", eisa_id("PNP0303")),
                name("_CRS", resources({aml::io(0x60, 1), aml::io(0x64, 1), interrupt({.gsi = 1})}))}));
  }
  return devices;
}

Terms processor_devices(const AcpiConfig& config) {
  Terms devices;
  for (size_t i = 0; i < config.apic_ids.size(); ++i) {
    devices.push_back(
        device(fmt::format("C{:03X}", i), {name("_HID", string("ACPI0007")), name("_UID", integer(i))}));
  }
  return devices;
}

// Linux's drivers/virtio/virtio_mmio.c knows them by this id.
Terms virtio_devices(const AcpiConfig& config) {
  Terms devices;
  for (size_t i = 0; i < config.virtio_mmio.size(); ++i) {
    const AcpiVirtioMmio& slot = config.virtio_mmio[i];
    devices.push_back(device(
        fmt::format("VM{:02X}", i),
        {name("_HID", string("LNRO0005")), name("_UID", integer(i)),
         name("_CRS", resources({fixed_memory(slot.registers),
                                 interrupt({.gsi = slot.gsi, .level_triggered = slot.level_triggered})}))}));
  }
  return devices;
}

// QEMU, docs/specs/fw_cfg.rst, "ACPI Interface": Linux's qemu_fw_cfg driver binds by this id.
Terms fw_cfg_device(uint16_t port) {
  constexpr uint64_t kPresentEnabledWorking = 0x0b;  // ACPI 6.5, 6.3.7; and not for people to see
  return {device("FWCF", {name("_HID", string("QEMU0002")), name("_STA", integer(kPresentEnabledWorking)),
                          name("_CRS", resources({aml::io(port, 12)}))})};
}

}  // namespace

aml::Code build_dsdt(const AcpiConfig& config) {
  Terms devices;
  const auto add = [&devices](Terms more) {
    devices.insert(devices.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  };
  add(processor_devices(config));
  if (config.pci) add(pci_devices(*config.pci));
  add(legacy_devices(config));
  add(virtio_devices(config));
  if (config.fw_cfg_port) add(fw_cfg_device(*config.fw_cfg_port));
  add(power_devices(config));
  const Code s5 = package({integer(config.s5_type), integer(0), integer(0), integer(0)});
  return join({scope("\\_SB", devices), name("\\_S5", s5)});
}

}  // namespace minivmm
