#include "boot/smbios.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>

#include "tests/temp_folder.h"
#include "vmm/core/error.h"

namespace minivmm {
namespace {

constexpr uint64_t kRoom = 0xfff0;
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

using Bytes = std::vector<std::byte>;

SmbiosConfig machine() {
  SmbiosConfig config;
  config.version = "1.2";
  config.serial = "S-1";
  config.sku = "K-2";
  for (uint8_t i = 0; i < 16; ++i) config.uuid[i] = static_cast<uint8_t>(0x10 + i);
  config.oem_strings = {"first", "second one"};
  config.processor = {.vendor = "GenuineIntel", .brand = "A CPU", .id = 0x0123'4567'89ab'cdef, .cores = 3};
  config.ram = {{Gpa{0}, 3 * kGiB}, {Gpa{4 * kGiB}, kGiB}};
  return config;
}

// As a reader finds them: DSP0134, 6.1.
struct Found {
  Bytes formatted;
  std::vector<std::string> strings;

  template <class T>
  T get(size_t offset) const {
    T v{};
    EXPECT_LE(offset + sizeof v, formatted.size());
    std::memcpy(&v, formatted.data() + offset, sizeof v);
    return v;
  }
  std::string text(size_t offset) const {
    const auto number = get<uint8_t>(offset);
    return number == 0 ? "(none)" : strings.at(number - 1U);
  }
};

// Of a structure table, by type; in the order in which they are there.
std::multimap<uint8_t, Found> walk(std::span<const std::byte> table) {
  std::multimap<uint8_t, Found> out;
  size_t at = 0;
  for (;;) {
    EXPECT_LE(at + 4, table.size());
    const auto type = std::to_integer<uint8_t>(table[at]);
    const auto length = std::to_integer<size_t>(table[at + 1]);
    EXPECT_LE(at + length + 2, table.size());
    Found found;
    found.formatted.assign(table.begin() + static_cast<ptrdiff_t>(at),
                           table.begin() + static_cast<ptrdiff_t>(at + length));
    at += length;
    if (table[at] == std::byte{0}) ++at;  // no strings: two NULs
    while (table[at] != std::byte{0}) {
      found.strings.emplace_back(reinterpret_cast<const char*>(table.data() + at));
      at += found.strings.back().size() + 1;
      EXPECT_LT(at, table.size());
    }
    ++at;
    out.emplace(type, std::move(found));
    if (type == 127) break;
  }
  EXPECT_EQ(at, table.size()) << "something stands behind the end";
  return out;
}

// As Linux does: every 16 bytes of the area, the checksum over the length that stands there.
std::optional<std::multimap<uint8_t, Found>> scan(const Bytes& bytes, uint64_t where) {
  Bytes area(0x10000);
  std::ranges::copy(bytes, area.begin() + static_cast<ptrdiff_t>(where - 0xf0000));
  for (size_t at = 0; at + 32 <= area.size(); at += 16) {
    if (std::memcmp(area.data() + at, "_SM3_", 5) != 0) continue;
    unsigned sum = 0;
    for (size_t i = 0; i < std::to_integer<size_t>(area[at + 6]); ++i) {
      sum += std::to_integer<unsigned>(area[at + i]);
    }
    uint32_t size = 0;
    uint64_t table = 0;
    std::memcpy(&size, area.data() + at + 12, sizeof size);
    std::memcpy(&table, area.data() + at + 16, sizeof table);
    EXPECT_EQ(sum % 256, 0U);
    EXPECT_EQ(area[at + 6], std::byte{24});
    EXPECT_EQ(area[at + 7], std::byte{3});
    EXPECT_EQ(area[at + 10], std::byte{1});
    EXPECT_LE(table - 0xf0000 + size, area.size());
    return walk(std::span(area).subspan(table - 0xf0000, size));
  }
  return std::nullopt;
}

std::multimap<uint8_t, Found> tables_of(const SmbiosConfig& config) {
  const auto found = scan(build_smbios(config, kSmbiosArea, kRoom).bytes, value(kSmbiosArea));
  EXPECT_TRUE(found);
  return *found;
}

Found only(const std::multimap<uint8_t, Found>& tables, uint8_t type) {
  EXPECT_EQ(tables.count(type), 1U);
  return tables.find(type)->second;
}

TEST(Smbios, IsFoundWhereverItIsPutInTheArea) {
  for (const uint64_t where : {0xf0000U, 0xf0010U, 0xf8000U}) {
    EXPECT_TRUE(scan(build_smbios(machine(), Gpa{where}, kRoom).bytes, where)) << where;
  }
}

TEST(Smbios, HandlesAreEachGivenOnce) {
  std::map<uint16_t, unsigned> handles;
  for (const auto& [type, found] : tables_of(machine())) ++handles[found.get<uint16_t>(2)];
  for (const auto& [handle, count] : handles) EXPECT_EQ(count, 1U) << handle;
}

TEST(Smbios, TheSystemIsWhatItIsSaidToBe) {
  const Found system = only(tables_of(machine()), 1);
  EXPECT_EQ(system.formatted.size(), 0x1bU);
  EXPECT_EQ(system.text(4), "minivmm");
  EXPECT_EQ(system.text(5), "minivmm");
  EXPECT_EQ(system.text(6), "1.2");
  EXPECT_EQ(system.text(7), "S-1");
  EXPECT_EQ(system.text(0x19), "K-2");
  EXPECT_EQ(system.text(0x1a), "Virtual Machine");
}

TEST(Smbios, TheUuidsFirstThreeFieldsAreLittleEndian) {
  const Found system = only(tables_of(machine()), 1);
  EXPECT_EQ(system.get<uint32_t>(8), 0x10111213U);
  EXPECT_EQ(system.get<uint16_t>(12), 0x1415U);
  EXPECT_EQ(system.get<uint16_t>(14), 0x1617U);
  for (size_t i = 8; i < 16; ++i) EXPECT_EQ(system.get<uint8_t>(8 + i), 0x10 + i);
}

TEST(Smbios, TheBiosSaysThatThisIsAVirtualMachineOfOurTime) {
  const Found bios = only(tables_of(machine()), 0);
  EXPECT_EQ(bios.formatted.size(), 0x18U);
  EXPECT_EQ(bios.get<uint8_t>(0x13) & 0x10, 0x10);
  EXPECT_EQ(bios.text(4), "minivmm");
  EXPECT_EQ(bios.text(5), MINIVMM_VERSION);
  const std::string date = bios.text(8);
  ASSERT_EQ(date.size(), 10U);
  EXPECT_GE(date.substr(6), "2008");
}

TEST(Smbios, TheBoardIsInTheChassis) {
  const auto tables = tables_of(machine());
  EXPECT_EQ(only(tables, 2).get<uint16_t>(0x0b), only(tables, 3).get<uint16_t>(2));
  EXPECT_EQ(only(tables, 2).formatted.size(), 0x0fU);
  EXPECT_EQ(only(tables, 3).formatted.size(), 0x16U);
  EXPECT_EQ(only(tables, 3).get<uint8_t>(5), 1);  // "other"
}

TEST(Smbios, TheProcessorIsOneSocketWithAllCpus) {
  const Found cpu = only(tables_of(machine()), 4);
  EXPECT_EQ(cpu.formatted.size(), 0x30U);
  EXPECT_EQ(cpu.text(7), "GenuineIntel");
  EXPECT_EQ(cpu.get<uint64_t>(8), 0x0123'4567'89ab'cdefU);
  EXPECT_EQ(cpu.text(0x10), "A CPU");
  for (const size_t at : {0x23U, 0x24U, 0x25U}) EXPECT_EQ(cpu.get<uint8_t>(at), 3);
  for (const size_t at : {0x2aU, 0x2cU, 0x2eU}) EXPECT_EQ(cpu.get<uint16_t>(at), 3);
}

TEST(Smbios, OemStringsStandInTheirOrder) {
  const Found oem = only(tables_of(machine()), 11);
  EXPECT_EQ(oem.get<uint8_t>(4), 2);
  EXPECT_THAT(oem.strings, testing::ElementsAre("first", "second one"));
}

TEST(Smbios, NoOemStringsAreNoStructure) {
  SmbiosConfig config = machine();
  config.oem_strings.clear();
  EXPECT_EQ(tables_of(config).count(11), 0U);
}

TEST(Smbios, MoreOemStringsThanOneStructureCountsAreInSeveral) {
  SmbiosConfig config = machine();
  config.oem_strings.clear();
  for (int i = 0; i < 600; ++i) config.oem_strings.push_back(std::to_string(i));
  std::vector<std::string> all;
  const auto tables = tables_of(config);
  EXPECT_EQ(tables.count(11), 3U);
  const auto [begin, end] = tables.equal_range(11);
  for (auto it = begin; it != end; ++it) {
    EXPECT_EQ(it->second.get<uint8_t>(4), it->second.strings.size());
    all.insert(all.end(), it->second.strings.begin(), it->second.strings.end());
  }
  EXPECT_EQ(all, config.oem_strings);
}

TEST(Smbios, MemoryIsToldWithItsHole) {
  const auto tables = tables_of(machine());
  const Found array = only(tables, 16);
  EXPECT_EQ(array.formatted.size(), 0x17U);
  EXPECT_EQ(array.get<uint32_t>(7), 4 * kGiB / 1024);
  const Found device = only(tables, 17);
  EXPECT_EQ(device.formatted.size(), 0x28U);
  EXPECT_EQ(device.get<uint16_t>(4), array.get<uint16_t>(2));
  EXPECT_EQ(device.get<uint16_t>(0x0c), 4096);
  const auto [first, end] = tables.equal_range(19);
  ASSERT_EQ(std::distance(first, end), 2);
  EXPECT_EQ(first->second.formatted.size(), 0x1fU);
  EXPECT_EQ(first->second.get<uint32_t>(4), 0U);
  EXPECT_EQ(first->second.get<uint32_t>(8), 3 * kGiB / 1024 - 1);
  const Found& second = std::next(first)->second;
  EXPECT_EQ(second.get<uint32_t>(4), 4 * kGiB / 1024);
  EXPECT_EQ(second.get<uint32_t>(8), 5 * kGiB / 1024 - 1);
  EXPECT_EQ(second.get<uint16_t>(0x0c), array.get<uint16_t>(2));
}

TEST(Smbios, LargeMemoryIsToldInTheLongFields) {
  SmbiosConfig config = machine();
  const uint64_t high = uint64_t{6} << 40;
  config.ram = {{Gpa{0}, 3 * kGiB}, {Gpa{4 * kGiB}, high}};
  const auto tables = tables_of(config);
  EXPECT_EQ(only(tables, 16).get<uint32_t>(7), 0x8000'0000U);
  EXPECT_EQ(only(tables, 16).get<uint64_t>(0x0f), high + 3 * kGiB);
  EXPECT_EQ(only(tables, 17).get<uint16_t>(0x0c), 0x7fff);
  EXPECT_EQ(only(tables, 17).get<uint32_t>(0x1c), (high + 3 * kGiB) / kMiB);
  const Found& second = std::next(tables.find(19))->second;
  EXPECT_EQ(second.get<uint32_t>(4), 0xffff'ffffU);
  EXPECT_EQ(second.get<uint32_t>(8), 0xffff'ffffU);
  EXPECT_EQ(second.get<uint64_t>(0x0f), 4 * kGiB);
  EXPECT_EQ(second.get<uint64_t>(0x17), 4 * kGiB + high - 1);
}

TEST(Smbios, WhatHasNoRoomIsRefusedWithNumbers) {
  SmbiosConfig config = machine();
  config.oem_strings = {std::string(60'000, 'x')};
  EXPECT_NO_THROW(build_smbios(config, kSmbiosArea, kRoom));
  config.oem_strings.emplace_back(6'000, 'y');
  try {
    build_smbios(config, kSmbiosArea, kRoom);
    FAIL() << "it was not refused";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("room for 65520"));
    EXPECT_THAT(error.what(), testing::Not(testing::HasSubstr("\n")));
  }
}

TEST(Smbios, RoomForTheTablesIsEnoughToTheByte) {
  const size_t size = build_smbios(machine(), kSmbiosArea, kRoom).bytes.size();
  EXPECT_NO_THROW(build_smbios(machine(), kSmbiosArea, size));
  EXPECT_THROW(build_smbios(machine(), kSmbiosArea, size - 1), ConfigError);
  EXPECT_THROW(build_smbios(machine(), kSmbiosArea, 0), ConfigError);
}

TEST(Smbios, StringsThatWouldEndTheListEarlyAreRefused) {
  for (const std::string& text : {std::string(), std::string("a\0b", 3)}) {
    SmbiosConfig config = machine();
    config.oem_strings = {"x", text};
    EXPECT_THROW(build_smbios(config, kSmbiosArea, kRoom), ConfigError);
  }
}

// What a dump of dmidecode's is: the entry point, and the table at an offset instead of an address.
TEST(Smbios, DmidecodeReadsItWithoutAComplaint) {
  const test::TempFolder folder;
  const std::string dump = folder.path() / "dump";
  const SmbiosTables tables = build_smbios(machine(), Gpa{0}, kRoom);
  std::ofstream(dump, std::ios::binary)
      .write(reinterpret_cast<const char*>(tables.bytes.data()),
             static_cast<std::streamsize>(tables.bytes.size()));
  FILE* const pipe = ::popen(("/usr/sbin/dmidecode --from-dump " + dump + " 2>&1").c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string said;
  for (std::array<char, 4096> piece{}; const size_t got = std::fread(piece.data(), 1, piece.size(), pipe);) {
    said.append(piece.data(), got);
  }
  ASSERT_EQ(::pclose(pipe), 0) << "dmidecode is not there? tools/deps build installs it\n" << said;
  using testing::HasSubstr;
  EXPECT_THAT(said, HasSubstr("SMBIOS 3.0.0 present"));
  EXPECT_THAT(said, HasSubstr("UUID: 10111213-1415-1617-1819-1a1b1c1d1e1f"));
  EXPECT_THAT(said, HasSubstr("Serial Number: S-1"));
  EXPECT_THAT(said, HasSubstr("System is a virtual machine"));
  EXPECT_THAT(said, HasSubstr("String 2: second one"));
  EXPECT_THAT(said, HasSubstr("Core Count: 3"));
  EXPECT_THAT(said, HasSubstr("Size: 4 GB"));
  EXPECT_THAT(said, HasSubstr("End Of Table"));
  for (const char* complaint :
       {"TRUNCATED", "Wrong", "<OUT OF SPEC>", "<BAD INDEX>", "Invalid", "broken", "#\n"}) {
    EXPECT_THAT(said, testing::Not(HasSubstr(complaint)));
  }
}

}  // namespace
}  // namespace minivmm
