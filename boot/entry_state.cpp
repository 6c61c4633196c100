#include "boot/entry_state.h"

#include <array>
#include <cerrno>

#include "boot/low_memory.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr uint16_t kTssSelector = 0x20;

constexpr uint64_t kCr0ProtectionEnable = 1;
constexpr uint64_t kCr0ExtensionType = 1 << 4;  // fixed to 1 on every CPU of today
constexpr uint64_t kCr0Paging = uint64_t{1} << 31;
constexpr uint64_t kCr4Pae = 1 << 5;
constexpr uint64_t kCr4La57 = 1 << 12;
constexpr uint64_t kEferLongMode = (1 << 8) | (1 << 10);  // LME, LMA

constexpr uint64_t kPresentWritable = 0b11;
constexpr uint64_t kHugePage = 1 << 7;
constexpr uint64_t kHugePageSize = 2 << 20;
constexpr size_t kEntries = 512;

template <class T>
void put(GuestMemory& memory, Gpa where, const T& what) {
  if (!memory.write(where, std::as_bytes(std::span(what)))) {
    throw HostError(ENOMEM, "the guest has no memory below 128 KiB for its boot tables");
  }
}

// Page tables that map [0, 4 GiB) one to one in 2 MiB pages, which every x86-64 CPU has; returns CR3.
Gpa write_page_tables(GuestMemory& memory, bool five_levels) {
  using Table = std::array<uint64_t, kEntries>;
  Gpa next = kPageTables;
  const auto allocate = [&next] {
    const Gpa table = next;
    next = next + kPageSize;
    return table;
  };
  const auto single = [&](Gpa table, Gpa child) {
    Table entries{};
    entries[0] = value(child) | kPresentWritable;
    put(memory, table, entries);
  };
  const Gpa root = allocate();
  Gpa pml4 = root;
  if (five_levels) {
    pml4 = allocate();
    single(root, pml4);
  }
  const Gpa pdpt = allocate();
  single(pml4, pdpt);
  Table upper{};
  for (uint64_t gib = 0; gib < 4; ++gib) {
    const Gpa directory = allocate();
    upper[gib] = value(directory) | kPresentWritable;
    Table entries;
    for (uint64_t i = 0; i < kEntries; ++i) {
      entries[i] = (gib * kEntries + i) * kHugePageSize | kPresentWritable | kHugePage;
    }
    put(memory, directory, entries);
  }
  put(memory, pdpt, upper);
  return root;
}

// Accessed code and data, and a busy TSS: what VMX and SVM want to find at entry (Intel SDM 3C, 26.3.1.2).
SegmentState flat(uint16_t selector, uint8_t type, bool long_mode) {
  return {.selector = selector,
          .base = 0,
          .limit = 0xffffffff,
          .type = type,
          .dpl = 0,
          .present = true,
          .code_or_data = true,
          .long_mode = long_mode,
          .default_big = !long_mode,
          .granular = true};
}

BootInfo with_segments(GuestMemory& memory, bool long_mode) {
  constexpr uint64_t kCode64 = 0x00af'9b00'0000'ffff;
  constexpr uint64_t kCode32 = 0x00cf'9b00'0000'ffff;
  constexpr uint64_t kData = 0x00cf'9300'0000'ffff;
  constexpr uint64_t kTss = 0x0000'8b00'0000'0067;
  const std::array<uint64_t, 6> gdt{0, 0, long_mode ? kCode64 : kCode32, kData, kTss, 0};
  put(memory, kGdtAddress, gdt);

  BootInfo info;
  info.gdt_base = value(kGdtAddress);
  info.gdt_limit = sizeof gdt - 1;
  info.cs = flat(kCodeSelector, 0xb, long_mode);
  info.data = flat(kDataSelector, 0x3, false);
  info.tss = {.selector = kTssSelector, .limit = 0x67, .type = 0xb, .present = true};
  return info;
}

}  // namespace

BootInfo enter_long64(GuestMemory& memory, uint64_t rip, Gpa boot_params, bool five_levels) {
  BootInfo info = with_segments(memory, true);
  info.mode = five_levels ? BootInfo::Mode::long64_5level : BootInfo::Mode::long64;
  info.rip = rip;
  info.rsp = value(kStackTop);
  info.rsi = value(boot_params);
  info.cr0 = kCr0ProtectionEnable | kCr0ExtensionType | kCr0Paging;
  info.cr3 = value(write_page_tables(memory, five_levels));
  info.cr4 = kCr4Pae | (five_levels ? kCr4La57 : 0);
  info.efer = kEferLongMode;
  return info;
}

BootInfo enter_protected32(GuestMemory& memory, uint32_t rip, Gpa start_info) {
  BootInfo info = with_segments(memory, false);
  info.mode = BootInfo::Mode::protected32;
  info.rip = rip;
  info.rsp = value(kStackTop);
  info.rbx = value(start_info);
  info.cr0 = kCr0ProtectionEnable | kCr0ExtensionType;
  return info;
}

}  // namespace minivmm
