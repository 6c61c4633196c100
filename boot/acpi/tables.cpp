#include "boot/acpi/tables.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "boot/acpi/dsdt.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr size_t kRsdpSize = 36;
constexpr size_t kHeaderSize = 36;
constexpr size_t kTableAlignment = 16;

void append_le(std::vector<std::byte>& to, uint64_t v, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) to.push_back(static_cast<std::byte>(v >> (8 * i)));
}

void put_le(std::vector<std::byte>& in, size_t offset, uint64_t v, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) in[offset + i] = static_cast<std::byte>(v >> (8 * i));
}

void append_text(std::vector<std::byte>& to, std::string_view text) {
  for (const char c : text) to.push_back(static_cast<std::byte>(c));
}

// What makes all bytes add up to 0 modulo 256.
uint8_t checksum(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (const std::byte b : bytes) sum += std::to_integer<unsigned>(b);
  return static_cast<uint8_t>(0U - sum);
}

// ACPI 6.5, 5.2.6.
std::vector<std::byte> table(std::string_view signature, uint8_t revision, std::span<const std::byte> body) {
  std::vector<std::byte> out;
  append_text(out, signature);
  append_le(out, kHeaderSize + body.size(), 4);
  append_le(out, revision, 1);
  append_le(out, 0, 1);  // checksum, below
  append_text(out, "MINIVM");
  append_text(out, "MINIVMM ");
  append_le(out, 1, 4);
  append_text(out, "MVMM");
  append_le(out, 1, 4);
  out.insert(out.end(), body.begin(), body.end());
  out[9] = std::byte{checksum(out)};
  return out;
}

// Generic address structure (5.2.3.2): one byte in I/O space.
void put_io_register(std::vector<std::byte>& in, size_t offset, uint16_t port) {
  constexpr uint8_t kSystemIo = 1;
  constexpr uint8_t kByteAccess = 1;
  put_le(in, offset, kSystemIo, 1);
  put_le(in, offset + 1, 8, 1);
  put_le(in, offset + 2, 0, 1);
  put_le(in, offset + 3, kByteAccess, 1);
  put_le(in, offset + 4, port, 8);
}

// 5.2.9. Offsets are the table's own.
std::vector<std::byte> build_fadt(const AcpiConfig& config, uint64_t dsdt) {
  constexpr size_t kSize = 276;
  constexpr uint32_t kWbinvd = 1 << 0;
  constexpr uint32_t kC1OnAll = 1 << 2;
  constexpr uint32_t kPowerButtonIsDevice = 1 << 4;
  constexpr uint32_t kSleepButtonIsDevice = 1 << 5;
  constexpr uint32_t kRtcWakeIsNotFixed = 1 << 6;
  constexpr uint32_t kResetRegister = 1 << 10;
  constexpr uint32_t kHardwareReduced = 1 << 20;
  constexpr uint16_t kLegacyDevices = 1 << 0;  // IAPC_BOOT_ARCH, 5.2.9.3
  constexpr uint16_t k8042 = 1 << 1;
  constexpr uint16_t kNoVga = 1 << 2;
  constexpr uint16_t kNoCmosRtc = 1 << 5;
  constexpr uint16_t kNoC2 = 101, kNoC3 = 1001;  // latencies that mean: not there

  std::vector<std::byte> t(kSize);
  put_le(t, 40, dsdt, 4);
  put_le(t, 96, kNoC2, 2);
  put_le(t, 98, kNoC3, 2);
  unsigned arch = kNoVga;
  if (!config.serial.empty() || config.rtc_gsi) arch |= kLegacyDevices;
  if (config.has_i8042) arch |= k8042;
  if (!config.rtc_gsi) arch |= kNoCmosRtc;
  put_le(t, 109, arch, 2);
  put_le(t, 112,
         kWbinvd | kC1OnAll | kPowerButtonIsDevice | kSleepButtonIsDevice | kRtcWakeIsNotFixed |
             kResetRegister | kHardwareReduced,
         4);
  put_io_register(t, 116, static_cast<uint16_t>(config.pm_port + 6));
  put_le(t, 128, config.reset_value, 1);
  put_le(t, 131, 5, 1);  // minor version
  put_le(t, 140, dsdt, 8);
  put_io_register(t, 244, static_cast<uint16_t>(config.pm_port + 4));
  put_io_register(t, 256, static_cast<uint16_t>(config.pm_port + 5));
  std::memcpy(t.data() + 268, "MINIVMM", 7);  // hypervisor vendor identity
  return table("FACP", 6, std::span(t).subspan(kHeaderSize));
}

// 5.2.12.
std::vector<std::byte> build_madt(const AcpiConfig& config) {
  std::vector<std::byte> t;
  append_le(t, config.lapic_base, 4);
  append_le(t, config.has_8259 ? 1 : 0, 4);  // PCAT_COMPAT
  for (size_t i = 0; i < config.apic_ids.size(); ++i) {
    append_le(t, 0, 1);  // 5.2.12.2: processor local APIC
    append_le(t, 8, 1);
    append_le(t, i, 1);  // its device's _UID
    append_le(t, config.apic_ids[i], 1);
    append_le(t, 1, 4);  // enabled
  }
  append_le(t, 1, 1);  // 5.2.12.3: I/O APIC
  append_le(t, 12, 1);
  append_le(t, config.ioapic_id, 1);
  append_le(t, 0, 1);
  append_le(t, config.ioapic_base, 4);
  append_le(t, 0, 4);  // its first GSI
  for (const AcpiInterruptOverride& o : config.overrides) {
    append_le(t, 2, 1);  // 5.2.12.5
    append_le(t, 10, 1);
    append_le(t, 0, 1);  // ISA
    append_le(t, o.source, 1);
    append_le(t, o.gsi, 4);
    append_le(t, (o.active_low ? 3U : 1U) | (o.level_triggered ? 3U << 2 : 1U << 2), 2);
  }
  append_le(t, 4, 1);  // 5.2.12.7: NMIs come in at LINT1 of every CPU
  append_le(t, 6, 1);
  append_le(t, 0xff, 1);
  append_le(t, 0, 2);
  append_le(t, 1, 1);
  return table("APIC", 5, t);
}

// PCI Firmware 3.3, 4.1.2.
std::vector<std::byte> build_mcfg(const AcpiPciRoot& pci) {
  std::vector<std::byte> t;
  append_le(t, 0, 8);
  append_le(t, pci.ecam.base, 8);
  append_le(t, 0, 2);  // segment
  append_le(t, 0, 1);
  append_le(t, pci.last_bus, 1);
  append_le(t, 0, 4);
  return table("MCFG", 1, t);
}

// 5.2.5.3.
std::vector<std::byte> build_rsdp(uint64_t xsdt) {
  std::vector<std::byte> t;
  append_text(t, "RSD PTR ");
  append_le(t, 0, 1);  // checksum of the first 20 bytes, below
  append_text(t, "MINIVM");
  append_le(t, 2, 1);
  append_le(t, 0, 4);  // no RSDT
  append_le(t, kRsdpSize, 4);
  append_le(t, xsdt, 8);
  append_le(t, 0, 1);  // checksum of all, below
  append_le(t, 0, 3);
  t[8] = std::byte{checksum(std::span(t).first(20))};
  t[32] = std::byte{checksum(t)};
  return t;
}

void check(const AcpiConfig& config, Gpa where) {
  const auto refuse = [](std::string_view why) {
    throw HostError(EINVAL, fmt::format("cannot build the ACPI tables: {}", why));
  };
  if (config.apic_ids.empty() || config.apic_ids.size() > 254) refuse("1 to 254 CPUs can be described");
  for (const uint8_t id : config.apic_ids) {
    if (id == 0xff) refuse("APIC id 255 is the broadcast address");
  }
  if (value(where) % 16 != 0) refuse("the RSDP must lie on a multiple of 16");
  if (config.pm_port == 0) refuse("the power-management ports are missing");
  if (config.serial.size() > 4) refuse("more than 4 serial ports");
  if (config.virtio_mmio.size() > 256) refuse("more than 256 virtio-mmio devices");
  if (config.pci) {
    constexpr uint64_t kFourGiB = uint64_t{1} << 32;
    const auto within = [](const AcpiRange& r, uint64_t limit) {
      return r.base <= limit && r.size <= limit - r.base;
    };
    if (!within(config.pci->mmio32, kFourGiB)) refuse("the 32-bit PCI window does not end below 4 GiB");
    if (!within(config.pci->mmio64, ~uint64_t{0})) refuse("the 64-bit PCI window wraps around");
    if (!within(config.pci->io, 0x10000)) refuse("the PCI I/O window does not end below 64 KiB");
    if (config.pci->intx.size() > 255) refuse("more than 255 PCI interrupt wires");
  }
}

}  // namespace

AcpiTables build_acpi(const AcpiConfig& config, Gpa where) {
  check(config, where);
  AcpiTables out{.rsdp = where, .bytes = std::vector<std::byte>(kRsdpSize)};
  const auto place = [&out, where](std::span<const std::byte> t) {
    out.bytes.resize((out.bytes.size() + kTableAlignment - 1) / kTableAlignment * kTableAlignment);
    const uint64_t at = value(where) + out.bytes.size();
    out.bytes.insert(out.bytes.end(), t.begin(), t.end());
    return at;
  };
  const uint64_t dsdt = place(table("DSDT", 2, build_dsdt(config)));
  std::vector<std::byte> xsdt;
  append_le(xsdt, place(build_fadt(config, dsdt)), 8);
  append_le(xsdt, place(build_madt(config)), 8);
  if (config.pci && config.pci->ecam.size != 0) append_le(xsdt, place(build_mcfg(*config.pci)), 8);
  const auto rsdp = build_rsdp(place(table("XSDT", 1, xsdt)));
  std::memcpy(out.bytes.data(), rsdp.data(), rsdp.size());

  const uint64_t area_end = value(kAcpiArea) + kAcpiAreaSize;
  if (value(where) < area_end && out.bytes.size() > area_end - value(where)) {
    throw HostError(E2BIG,
                    fmt::format("cannot build the ACPI tables: they need {} bytes, {} are left at {:#x}; use "
                                "fewer devices or CPUs",
                                out.bytes.size(), area_end - value(where), value(where)));
  }
  return out;
}

}  // namespace minivmm
