#include "boot/smbios.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr size_t kEntryPointSize = 24;
constexpr size_t kTableOffset = 32;  // from the entry point: the next multiple of 16
constexpr uint64_t kKiB = uint64_t{1} << 10;
constexpr uint64_t kMiB = uint64_t{1} << 20;

// The handles that structures refer to each other by are ours to choose: the type in the upper byte.
constexpr uint16_t handle_of(uint8_t type, uint8_t index = 0) {
  return static_cast<uint16_t>(type << 8 | index);
}
constexpr uint8_t kBios = 0, kSystem = 1, kBaseboard = 2, kChassis = 3, kProcessor = 4, kOemStrings = 11,
                  kMemoryArray = 16, kMemoryDevice = 17, kMappedAddress = 19, kBootInformation = 32,
                  kEnd = 127;

void append_le(std::vector<std::byte>& to, uint64_t v, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) to.push_back(static_cast<std::byte>(v >> (8 * i)));
}

// One structure: formatted area, then its strings (6.1.2, 6.1.3).
class Structure {
 public:
  explicit Structure(uint8_t type, uint8_t index = 0) {
    append_le(formatted_, type, 1);
    append_le(formatted_, 0, 1);  // length, at the end
    append_le(formatted_, handle_of(type, index), 2);
  }

  Structure& byte(uint8_t v) { return number(v, 1); }
  Structure& word(uint16_t v) { return number(v, 2); }
  Structure& dword(uint32_t v) { return number(v, 4); }
  Structure& qword(uint64_t v) { return number(v, 8); }
  // A reference to a string, which is counted from 1; 0 says that there is none.
  Structure& text(std::string_view text) { return byte(text.empty() ? uint8_t{0} : add_string(text)); }
  Structure& uuid(const Uuid& uuid) {  // 7.2.1: the first three fields are little-endian
    for (const size_t at : {3U, 2U, 1U, 0U, 5U, 4U, 7U, 6U}) byte(uuid[at]);
    for (size_t at = 8; at < 16; ++at) byte(uuid[at]);
    return *this;
  }
  // A string that only its place refers to.
  uint8_t add_string(std::string_view text) {
    if (text.empty() || text.find('\0') != std::string_view::npos) {
      throw ConfigError(
          "SMBIOS cannot hold an empty string, or one with a NUL byte: correct the machine's identity");
    }
    strings_.insert(strings_.end(), reinterpret_cast<const std::byte*>(text.data()),
                    reinterpret_cast<const std::byte*>(text.data() + text.size()));
    strings_.push_back(std::byte{0});
    MV_CHECK(string_count_ < 255);
    return ++string_count_;
  }

  void append_to(std::vector<std::byte>& table) {
    MV_CHECK(formatted_.size() <= 255);
    formatted_[1] = static_cast<std::byte>(formatted_.size());
    table.insert(table.end(), formatted_.begin(), formatted_.end());
    table.insert(table.end(), strings_.begin(), strings_.end());
    if (string_count_ == 0) table.push_back(std::byte{0});  // no strings end with two NULs all the same
    table.push_back(std::byte{0});
  }

 private:
  Structure& number(uint64_t v, unsigned bytes) {
    append_le(formatted_, v, bytes);
    return *this;
  }

  std::vector<std::byte> formatted_;
  std::vector<std::byte> strings_;
  uint8_t string_count_ = 0;
};

// "0.1.0": the first two numbers.
std::pair<uint8_t, uint8_t> release(std::string_view version) {
  const auto number = [](std::string_view digits) {
    uint8_t n = 0;
    for (const char c : digits) n = static_cast<uint8_t>(n * 10 + (c - '0'));
    return n;
  };
  const size_t dot = version.find('.');
  const std::string_view rest = version.substr(dot + 1);
  return {number(version.substr(0, dot)), number(rest.substr(0, rest.find('.')))};
}

void add_bios(std::vector<std::byte>& table) {  // 7.1
  constexpr uint64_t kNoCharacteristics = 1 << 3;
  constexpr uint8_t kAcpi = 1 << 0;
  constexpr uint8_t kVirtualMachine = 1 << 4;
  constexpr uint8_t kNoController = 0xff;
  const auto [major, minor] = release(MINIVMM_VERSION);
  Structure s(kBios);
  s.text("minivmm").text(MINIVMM_VERSION).word(0xe000);
  s.text("01/01/2026");  // of no meaning; Linux takes a machine from before 2008 for one with old quirks
  s.byte(1);             // 128 KiB: units of 64, less one
  s.qword(kNoCharacteristics).byte(kAcpi).byte(kVirtualMachine);
  s.byte(major).byte(minor).byte(kNoController).byte(kNoController);
  s.append_to(table);
}

void add_system(std::vector<std::byte>& table, const SmbiosConfig& c) {  // 7.2
  constexpr uint8_t kPowerSwitch = 6;
  Structure s(kSystem);
  s.text(c.manufacturer).text(c.product).text(c.version).text(c.serial);
  s.uuid(c.uuid).byte(kPowerSwitch).text(c.sku).text(c.family);
  s.append_to(table);
}

void add_baseboard(std::vector<std::byte>& table, const SmbiosConfig& c) {  // 7.3
  constexpr uint8_t kHosting = 1;
  constexpr uint8_t kMotherboard = 0x0a;
  Structure s(kBaseboard);
  s.text(c.manufacturer).text(c.product).text(c.version).text("").text("");
  s.byte(kHosting).text("").word(handle_of(kChassis)).byte(kMotherboard).byte(0);
  s.append_to(table);
}

void add_chassis(std::vector<std::byte>& table, const SmbiosConfig& c) {  // 7.4
  constexpr uint8_t kOther = 1;
  constexpr uint8_t kUnknown = 2;
  constexpr uint8_t kSafe = 3;
  Structure s(kChassis);
  s.text(c.manufacturer).byte(kOther).text(c.version).text("").text("");
  s.byte(kSafe).byte(kSafe).byte(kSafe).byte(kUnknown);
  s.dword(0).byte(0).byte(0).byte(0).byte(0).text("");
  s.append_to(table);
}

void add_processor(std::vector<std::byte>& table, const SmbiosConfig::Processor& p) {  // 7.5
  constexpr uint8_t kCentral = 3;
  constexpr uint8_t kOther = 1;
  constexpr uint8_t kPopulatedAndEnabled = 0x41;
  constexpr uint16_t kNoCache = 0xffff;
  constexpr uint16_t k64Bit = 1 << 2;
  constexpr uint16_t kMultiCore = 1 << 3;
  const auto count = static_cast<uint16_t>(p.cores);
  const auto short_count = static_cast<uint8_t>(std::min(p.cores, 255U));  // 255: see the long ones
  Structure s(kProcessor);
  s.text("CPU 0").byte(kCentral).byte(kOther).text(p.vendor).qword(p.id).text(p.brand);
  s.byte(0).word(0).word(0).word(0);  // voltage, clock and speeds: unknown
  s.byte(kPopulatedAndEnabled).byte(kOther).word(kNoCache).word(kNoCache).word(kNoCache);
  s.text("").text("").text("").byte(short_count).byte(short_count).byte(short_count);
  s.word(static_cast<uint16_t>(k64Bit | (p.cores > 1 ? kMultiCore : 0))).word(kOther);
  s.word(count).word(count).word(count);
  s.append_to(table);
}

// 7.12. A structure counts its strings in one byte.
void add_oem_strings(std::vector<std::byte>& table, std::span<const std::string> strings) {
  for (uint8_t index = 0; !strings.empty(); ++index) {
    const auto some = strings.first(std::min<size_t>(strings.size(), 255));
    Structure s(kOemStrings, index);
    s.byte(static_cast<uint8_t>(some.size()));
    for (const std::string& text : some) s.add_string(text);
    s.append_to(table);
    strings = strings.subspan(some.size());
  }
}

void add_memory(std::vector<std::byte>& table, std::span<const GuestMemory::Range> ram) {
  constexpr uint16_t kNoErrorInformation = 0xfffe;
  constexpr uint16_t kUnknownWidth = 0xffff;
  constexpr uint8_t kOther = 1;
  uint64_t total = 0;
  for (const auto& range : ram) total += range.size;

  constexpr uint8_t kSystemMemory = 3;
  constexpr uint8_t kNoCorrection = 3;
  constexpr uint64_t kLongCapacity = 0x8000'0000;  // KiB from here on: in the qword, in bytes
  const bool long_capacity = total / kKiB >= kLongCapacity;
  Structure array(kMemoryArray);  // 7.17
  array.byte(kOther).byte(kSystemMemory).byte(kNoCorrection);
  array.dword(static_cast<uint32_t>(long_capacity ? kLongCapacity : total / kKiB));
  array.word(kNoErrorInformation).word(1).qword(long_capacity ? total : 0);
  array.append_to(table);

  constexpr uint64_t kLongSize = 0x7fff;  // MiB from here on: in the dword
  constexpr uint8_t kDimm = 9;
  constexpr uint8_t kRam = 7;
  constexpr uint16_t kOtherDetail = 1 << 1;
  const uint64_t mib = total / kMiB;
  Structure device(kMemoryDevice);  // 7.18: all of it in one
  device.word(handle_of(kMemoryArray)).word(kNoErrorInformation).word(kUnknownWidth).word(kUnknownWidth);
  device.word(static_cast<uint16_t>(std::min(mib, kLongSize))).byte(kDimm).byte(0).text("RAM 0").text("");
  device.byte(kRam).word(kOtherDetail).word(0).text("").text("").text("").text("").byte(0);
  device.dword(static_cast<uint32_t>(mib >= kLongSize ? mib : 0)).word(0).word(0).word(0).word(0);
  device.append_to(table);

  constexpr uint64_t kLongAddress = 0xffff'ffff;  // KiB from here on: in the qwords, in bytes
  for (uint8_t index = 0; const auto& range : ram) {
    const uint64_t first = value(range.base);
    const uint64_t last = first + range.size - 1;
    const bool is_long = last / kKiB >= kLongAddress;
    Structure mapped(kMappedAddress, index++);  // 7.20
    mapped.dword(static_cast<uint32_t>(is_long ? kLongAddress : first / kKiB));
    mapped.dword(static_cast<uint32_t>(is_long ? kLongAddress : last / kKiB));
    mapped.word(handle_of(kMemoryArray)).byte(1);
    mapped.qword(is_long ? first : 0).qword(is_long ? last : 0);
    mapped.append_to(table);
  }
}

void add_end(std::vector<std::byte>& table) {
  constexpr uint8_t kNoErrors = 0;
  Structure boot(kBootInformation);  // 7.33
  boot.word(0).dword(0).byte(kNoErrors);
  boot.append_to(table);
  Structure(kEnd).append_to(table);  // 7.45
}

// 5.2.2.
std::vector<std::byte> entry_point(uint64_t table, uint32_t table_size) {
  std::vector<std::byte> e;
  for (const char c : std::string_view("_SM3_")) e.push_back(static_cast<std::byte>(c));
  append_le(e, 0, 1);  // checksum, below
  append_le(e, kEntryPointSize, 1);
  append_le(e, 3, 1);  // version 3.0, docrev 0
  append_le(e, 0, 2);
  append_le(e, 1, 1);  // revision of the entry point
  append_le(e, 0, 1);
  append_le(e, table_size, 4);
  append_le(e, table, 8);
  MV_CHECK(e.size() == kEntryPointSize);
  unsigned sum = 0;
  for (const std::byte b : e) sum += std::to_integer<unsigned>(b);
  e[5] = static_cast<std::byte>(0U - sum);  // all bytes add up to 0 modulo 256
  return e;
}

}  // namespace

SmbiosTables build_smbios(const SmbiosConfig& config, Gpa where, uint64_t room) {
  MV_CHECK(value(where) % 16 == 0);
  std::vector<std::byte> table;
  add_bios(table);
  add_system(table, config);
  add_baseboard(table, config);
  add_chassis(table, config);
  add_processor(table, config.processor);
  add_oem_strings(table, config.oem_strings);
  add_memory(table, config.ram);
  add_end(table);
  if (table.size() > room || kTableOffset > room - table.size()) {
    throw ConfigError(
        fmt::format("the machine's identity takes {} bytes of SMBIOS tables, and there is room for {}: give "
                    "it less by --oem-string, --set-credential and --load-credential",
                    kTableOffset + table.size(), room));
  }
  SmbiosTables out{.entry_point = where,
                   .bytes = entry_point(value(where) + kTableOffset, static_cast<uint32_t>(table.size()))};
  out.bytes.resize(kTableOffset);
  out.bytes.insert(out.bytes.end(), table.begin(), table.end());
  return out;
}

}  // namespace minivmm
