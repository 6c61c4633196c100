#include "boot/entry_state.h"

#include <gtest/gtest.h>

#include <optional>

namespace minivmm {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// Walks the guest's page tables as the CPU does (Intel SDM 3A, 4.5).
std::optional<uint64_t> translate(const GuestMemory& memory, uint64_t cr3, uint64_t address, int levels) {
  uint64_t table = cr3;
  for (int level = levels; level >= 1; --level) {
    const uint64_t index = (address >> (12 + 9 * (level - 1))) & 511;
    const auto entry = memory.load<uint64_t>(Gpa{table + index * 8});
    if (!entry || (*entry & 3) != 3) return std::nullopt;
    if (level == 2 && (*entry & 0x80) != 0) return (*entry & ~uint64_t{0x1fffff}) | (address & 0x1fffff);
    table = *entry & ~uint64_t{0xfff};
  }
  return std::nullopt;
}

TEST(EntryState, MapsTheFirst4GiBOneToOneInBothModes) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, 2 * kMiB}});
  for (const bool five : {false, true}) {
    const BootInfo info = enter_long64(memory, 0x100000, Gpa{0x7000}, five);
    for (const uint64_t address : {uint64_t{0}, uint64_t{0x7123}, uint64_t{0x3fffffff}, uint64_t{0xfee00000}})
      EXPECT_EQ(translate(memory, info.cr3, address, five ? 5 : 4), address);
    EXPECT_EQ(translate(memory, info.cr3, uint64_t{1} << 32, five ? 5 : 4), std::nullopt);
    EXPECT_EQ((info.cr4 & (1 << 12)) != 0, five);
    EXPECT_EQ(info.mode, five ? BootInfo::Mode::long64_5level : BootInfo::Mode::long64);
  }
}

TEST(EntryState, SegmentsMatchTheirDescriptors) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, 2 * kMiB}});
  const auto check = [&](const BootInfo& info, const SegmentState& s) {
    const auto d = *memory.load<uint64_t>(Gpa{info.gdt_base + s.selector});
    EXPECT_LE(s.selector + 7U, info.gdt_limit);
    EXPECT_EQ((d >> 40) & 0xf, s.type);
    EXPECT_EQ(((d >> 44) & 1) != 0, s.code_or_data);
    EXPECT_EQ(((d >> 47) & 1) != 0, s.present);
    EXPECT_EQ(((d >> 53) & 1) != 0, s.long_mode);
    EXPECT_EQ(((d >> 55) & 1) != 0, s.granular);
    if (s.selector == info.cs.selector) {
      EXPECT_EQ(((d >> 54) & 1) != 0, s.default_big);
    }
  };
  for (const bool long_mode : {true, false}) {
    const BootInfo info =
        long_mode ? enter_long64(memory, 0, Gpa{0}, false) : enter_protected32(memory, 0, Gpa{0});
    check(info, info.cs);
    check(info, info.data);
    check(info, info.tss);
    EXPECT_EQ(info.cs.selector, 0x10);    // boot.rst: __BOOT_CS
    EXPECT_EQ(info.data.selector, 0x18);  // __BOOT_DS
    EXPECT_EQ(info.rflags, 2U);
  }
}

}  // namespace
}  // namespace minivmm
