#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "boot/acpi/aml.h"
#include "boot/acpi/dsdt.h"
#include "boot/acpi/tables.h"
#include "tests/unit/boot/kernel_builder.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

Bytes bytes(std::initializer_list<unsigned> values) {
  Bytes out;
  for (const unsigned v : values) out.push_back(static_cast<std::byte>(v));
  return out;
}

AcpiConfig machine(size_t cpus = 2) {
  AcpiConfig config;
  for (size_t i = 0; i < cpus; ++i) config.apic_ids.push_back(static_cast<uint8_t>(i));
  config.pci = AcpiPciRoot{.ecam = {0xe0000000, 1 << 20},
                           .last_bus = 0,
                           .mmio32 = {0xc0000000, 0x20000000},
                           .mmio64 = {uint64_t{1} << 38, uint64_t{1} << 38},
                           .io = {0, 0x10000},
                           .intx = {}};
  config.serial = {{.port = 0x3f8, .gsi = 4}};
  config.rtc_gsi = 8;
  config.pm_port = 0x600;
  config.pm_gsi = 9;
  return config;
}

// Signature to table, as the guest finds them from the RSDP on.
std::map<std::string, Bytes> walk(const AcpiTables& tables) {
  const auto at = [&](uint64_t address) {
    const uint64_t offset = address - value(tables.rsdp);
    const auto size = get<uint32_t>(tables.bytes, offset + 4);
    return Bytes(tables.bytes.begin() + static_cast<std::ptrdiff_t>(offset),
                 tables.bytes.begin() + static_cast<std::ptrdiff_t>(offset + size));
  };
  const auto signature = [](const Bytes& t) {
    return std::string(reinterpret_cast<const char*>(t.data()), 4);
  };
  std::map<std::string, Bytes> found;
  const Bytes xsdt = at(get<uint64_t>(tables.bytes, 24));
  found["XSDT"] = xsdt;
  for (size_t i = 36; i < xsdt.size(); i += 8) {
    const Bytes t = at(get<uint64_t>(xsdt, i));
    found[signature(t)] = t;
  }
  found["DSDT"] = at(get<uint64_t>(found["FACP"], 140));
  return found;
}

unsigned sum(std::span<const std::byte> data) {
  unsigned s = 0;
  for (const std::byte b : data) s += std::to_integer<unsigned>(b);
  return s & 0xff;
}

bool contains(const Bytes& in, std::string_view text) {
  return std::string_view(reinterpret_cast<const char*>(in.data()), in.size()).find(text) !=
         std::string_view::npos;
}

TEST(Aml, IntegersTakeTheShortestForm) {
  EXPECT_EQ(aml::integer(0), bytes({0}));
  EXPECT_EQ(aml::integer(1), bytes({1}));
  EXPECT_EQ(aml::integer(0x12), bytes({0x0a, 0x12}));
  EXPECT_EQ(aml::integer(0x1234), bytes({0x0b, 0x34, 0x12}));
  EXPECT_EQ(aml::integer(0x12345678), bytes({0x0c, 0x78, 0x56, 0x34, 0x12}));
  EXPECT_EQ(aml::integer(0x123456789), bytes({0x0e, 0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0}));
}

TEST(Aml, EisaIdsAreCompressedAsTheSpecificationShows) {
  EXPECT_EQ(aml::eisa_id("PNP0A03"), bytes({0x0c, 0x41, 0xd0, 0x0a, 0x03}));  // ACPI 6.5, 19.6.37
}

TEST(Aml, UuidsHaveTheirFirstGroupsTurned) {
  EXPECT_EQ(aml::uuid("33db4d5b-1ff7-401c-9657-7441c03dd766"),
            bytes({0x11, 0x13, 0x0a, 0x10, 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f,
                   0x1c, 0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66}));
}

TEST(Aml, PathsHaveTheirPrefixes) {
  EXPECT_EQ(aml::path("CRS"), bytes({'C', 'R', 'S', '_'}));
  EXPECT_EQ(aml::path("\\_SB"), bytes({'\\', '_', 'S', 'B', '_'}));
  EXPECT_EQ(aml::path("\\_SB.PCI0"), bytes({'\\', 0x2e, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'}));
  EXPECT_EQ(aml::path("A.B.C"), bytes({0x2f, 3, 'A', '_', '_', '_', 'B', '_', '_', '_', 'C', '_', '_', '_'}));
}

TEST(Aml, PackageLengthsGrowAtTheirLimits) {
  // PkgLength counts its own bytes: 63 is the largest in one byte, 4095 in two.
  const auto length_bytes = [](size_t content) {
    const aml::Code code = aml::scope("ABCD", {aml::Code(content)});
    const auto lead = std::to_integer<unsigned>(code[1]);
    const unsigned more = lead >> 6;
    uint64_t length = more == 0 ? lead : lead & 0xf;
    for (unsigned i = 0; i < more; ++i) length |= std::to_integer<uint64_t>(code[2 + i]) << (4 + 8 * i);
    EXPECT_EQ(length, code.size() - 1) << content;
    return more + 1;
  };
  EXPECT_EQ(length_bytes(63 - 1 - 4), 1U);
  EXPECT_EQ(length_bytes(63 - 4), 2U);
  EXPECT_EQ(length_bytes(4095 - 2 - 4), 2U);
  EXPECT_EQ(length_bytes(4095 - 4), 3U);
}

TEST(Aml, ResourceTemplatesEndWithTheEndTag) {
  const aml::Code code = aml::resources({aml::io(0x3f8, 8), aml::interrupt({.gsi = 4})});
  EXPECT_EQ(code, bytes({0x11, 0x16, 0x0a, 0x13, 0x47, 1, 0xf8, 3, 0xf8, 3,    1, 8,
                         0x89, 6,    0,    3,    1,    4, 0,    0, 0,    0x79, 0}));
}

TEST(AcpiTables, HaveRightChecksumsAndStartWithTheRsdp) {
  const AcpiTables tables = build_acpi(machine());
  EXPECT_TRUE(contains(Bytes(tables.bytes.begin(), tables.bytes.begin() + 8), "RSD PTR "));
  EXPECT_EQ(sum(std::span(tables.bytes).first(20)), 0U);
  EXPECT_EQ(sum(std::span(tables.bytes).first(36)), 0U);
  const auto found = walk(tables);
  EXPECT_EQ(found.size(), 5U);
  for (const auto& [name, t] : found) EXPECT_EQ(sum(t), 0U) << name;
}

TEST(AcpiTables, TheFadtTellsOfTheReducedMachine) {
  const Bytes fadt = walk(build_acpi(machine())).at("FACP");
  EXPECT_EQ(fadt.size(), 276U);
  const auto flags = get<uint32_t>(fadt, 112);
  EXPECT_TRUE((flags & (1 << 20)) != 0) << "hardware reduced";
  EXPECT_TRUE((flags & (1 << 10)) != 0) << "reset register";
  EXPECT_TRUE((flags & (1 << 4)) != 0) << "the power button is a device";
  EXPECT_EQ(get<uint16_t>(fadt, 109), 0b101) << "legacy devices, no VGA, no 8042, MSI, an RTC";
  EXPECT_EQ(get<uint64_t>(fadt, 120), 0x606U);
  EXPECT_EQ(get<uint64_t>(fadt, 248), 0x604U);
  EXPECT_EQ(get<uint64_t>(fadt, 260), 0x605U);
  EXPECT_EQ(get<uint8_t>(fadt, 128), 1);
}

TEST(AcpiTables, TheMadtHasEveryCpuAndTheOverrides) {
  AcpiConfig config = machine(254);
  config.overrides = {{.source = 0, .gsi = 2},
                      {.source = 9, .gsi = 9, .level_triggered = true, .active_low = true}};
  const Bytes madt = walk(build_acpi(config)).at("APIC");
  std::map<unsigned, unsigned> kinds;
  for (size_t at = 44; at < madt.size(); at += get<uint8_t>(madt, at + 1)) {
    const unsigned kind = get<uint8_t>(madt, at);
    if (kind == 0) {
      EXPECT_EQ(get<uint8_t>(madt, at + 2), kinds[0]);
      EXPECT_EQ(get<uint8_t>(madt, at + 3), kinds[0]);
    }
    if (kind == 2 && get<uint8_t>(madt, at + 3) == 9) {
      EXPECT_EQ(get<uint16_t>(madt, at + 8), 0xf);
    }
    ++kinds[kind];
  }
  EXPECT_EQ(kinds, (std::map<unsigned, unsigned>{{0, 254}, {1, 1}, {2, 2}, {4, 1}}));
}

TEST(AcpiTables, TheMcfgNamesEcamAndBuses) {
  const Bytes mcfg = walk(build_acpi(machine())).at("MCFG");
  EXPECT_EQ(mcfg.size(), 60U);
  EXPECT_EQ(get<uint64_t>(mcfg, 44), 0xe0000000U);
  EXPECT_EQ(get<uint8_t>(mcfg, 55), 0);
}

TEST(AcpiTables, TheDsdtHasOnlyTheDevicesThereAre) {
  AcpiConfig config = machine();
  Bytes dsdt = walk(build_acpi(config)).at("DSDT");
  for (const char* name : {"PCI0", "COM1", "RTC_", "PWRB", "GED_", "_EVT", "_OSC", "C001", "MRES", "_S5_"})
    EXPECT_TRUE(contains(dsdt, name)) << name;
  for (const char* name : {"KBD_", "VM00", "LNRO0005", "_PRT", "COM2", "C002"})
    EXPECT_FALSE(contains(dsdt, name)) << name;

  config.pci = {};
  config.serial = {};
  config.rtc_gsi = {};
  config.has_i8042 = true;
  config.virtio_mmio = {{.registers = {0xd0000000, 512}, .gsi = 5},
                        {.registers = {0xd0000200, 512}, .gsi = 6}};
  const auto tables = walk(build_acpi(config));
  EXPECT_FALSE(tables.contains("MCFG"));
  dsdt = tables.at("DSDT");
  for (const char* name : {"KBD_", "VM00", "VM01", "LNRO0005"}) EXPECT_TRUE(contains(dsdt, name)) << name;
  for (const char* name : {"PCI0", "COM1", "RTC_"}) EXPECT_FALSE(contains(dsdt, name)) << name;
}

TEST(AcpiTables, TheFwCfgDeviceIsThereOnlyWithItsPorts) {
  AcpiConfig config = machine();
  EXPECT_FALSE(contains(walk(build_acpi(config)).at("DSDT"), "QEMU0002"));
  config.fw_cfg_port = 0x510;
  const Bytes dsdt = walk(build_acpi(config)).at("DSDT");
  EXPECT_TRUE(contains(dsdt, "QEMU0002"));
  const Bytes ports = bytes({0x47, 1, 0x10, 0x05, 0x10, 0x05, 1, 12, 0x79, 0});
  EXPECT_FALSE(std::ranges::search(dsdt, ports).empty());
}

TEST(AcpiTables, WiredPciInterruptsAreRouted) {
  AcpiConfig config = machine();
  config.pci->intx = {{.device = 1, .pin = 0, .gsi = 16, .active_high = true},
                      {.device = 2, .pin = 0, .gsi = 17}};
  const Bytes dsdt = walk(build_acpi(config)).at("DSDT");
  EXPECT_TRUE(contains(dsdt, "_PRT"));
  EXPECT_TRUE(contains(dsdt, "L010"));
  EXPECT_FALSE(contains(dsdt, "L011"));
}

TEST(AcpiTables, EverythingFitsForTheLargestMachine) {
  AcpiConfig config = machine(254);
  for (unsigned i = 0; i < 64; ++i)
    config.virtio_mmio.push_back({.registers = {0xd0000000 + i * 512, 512}, .gsi = 5 + i});
  EXPECT_LT(build_acpi(config).bytes.size(), kAcpiAreaSize);
}

TEST(AcpiTables, TablesThatDoNotFitAreRefusedWithNumbers) {
  const std::string error = error_of([] { build_acpi(machine(254), Gpa{0xef000}); });
  EXPECT_NE(error.find("4096 are left"), std::string::npos) << error;
}

TEST(AcpiTables, NonsenseIsRefused) {
  const auto refused = [](auto&& spoil) {
    AcpiConfig config = machine();
    spoil(config);
    return !error_of([&] { build_acpi(config); }).empty();
  };
  EXPECT_FALSE(refused([](AcpiConfig&) {}));
  EXPECT_TRUE(refused([](AcpiConfig& c) { c.apic_ids.clear(); }));
  EXPECT_TRUE(refused([](AcpiConfig& c) { c.apic_ids.assign(255, 0); }));
  EXPECT_TRUE(refused([](AcpiConfig& c) { c.apic_ids[1] = 255; }));
  EXPECT_TRUE(refused([](AcpiConfig& c) { c.pm_port = 0; }));
  EXPECT_TRUE(refused([](AcpiConfig& c) { c.pci->mmio32.size = uint64_t{1} << 32; }));
  EXPECT_TRUE(refused([](AcpiConfig& c) { c.pci->mmio64.size = ~uint64_t{0}; }));
  EXPECT_TRUE(refused([](AcpiConfig& c) { c.pci->io.size = 0x10001; }));
  EXPECT_NE(error_of([] { build_acpi(machine(), Gpa{0xe0008}); }), "");
}

}  // namespace
}  // namespace minivmm
