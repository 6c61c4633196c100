#include "boot/elf.h"

#include <elf.h>
#include <gtest/gtest.h>

#include "boot/kernel_image.h"
#include "boot/low_memory.h"
#include "tests/unit/boot/kernel_builder.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

constexpr uint64_t kMiB = 1 << 20;

std::string refusal(const Bytes& file) {
  const auto loader = ElfLoader::parse(file);
  return loader ? "" : loader.error().what;
}

template <class F>
std::string refusal_with(F&& spoil) {
  Bytes file = make_elf();
  spoil(file);
  return refusal(file);
}

template <class T>
auto field(size_t offset, T v) {
  return [=](Bytes& file) { put(file, offset, v); };
}

constexpr size_t kFirstHeader = sizeof(Elf64_Ehdr);

TEST(Elf, RefusesWhatIsNoKernelForThisMachine) {
  EXPECT_NE(refusal_with(field(EI_CLASS, uint8_t{ELFCLASS32})).find("32-bit"), std::string::npos);
  EXPECT_NE(refusal_with(field(EI_DATA, uint8_t{ELFDATA2MSB})).find("big-endian"), std::string::npos);
  EXPECT_NE(refusal_with(field(offsetof(Elf64_Ehdr, e_machine), uint16_t{EM_AARCH64})).find("arm64"),
            std::string::npos);
  EXPECT_NE(refusal_with(field(offsetof(Elf64_Ehdr, e_machine), uint16_t{EM_RISCV})).find("another machine"),
            std::string::npos);
  EXPECT_NE(refusal_with(field(offsetof(Elf64_Ehdr, e_type), uint16_t{ET_REL})).find("object file"),
            std::string::npos);
  EXPECT_NE(refusal_with(field(offsetof(Elf64_Ehdr, e_type), uint16_t{ET_DYN})).find("position-independent"),
            std::string::npos);
}

TEST(Elf, ChecksEveryHeaderField) {
  using H = Elf64_Ehdr;
  using P = Elf64_Phdr;
  const std::vector<std::pair<std::string, std::string>> cases{
      {"no program headers", refusal_with(field(offsetof(H, e_phnum), uint16_t{0}))},
      {"wrong size", refusal_with(field(offsetof(H, e_phentsize), uint16_t{32}))},
      {"too many", refusal_with(field(offsetof(H, e_phnum), uint16_t{0xffff}))},
      {"program headers are cut off", refusal_with(field(offsetof(H, e_phoff), ~uint64_t{0}))},
      {"section headers are cut off", refusal_with([](Bytes& f) {
         put(f, offsetof(H, e_shoff), ~uint64_t{0});
         put(f, offsetof(H, e_shnum), uint16_t{1});
         put(f, offsetof(H, e_shentsize), uint16_t{64});
       })},
      {"segment is cut off", refusal_with(field(kFirstHeader + offsetof(P, p_offset), ~uint64_t{0}))},
      {"segment is cut off", refusal_with(field(kFirstHeader + offsetof(P, p_filesz), uint64_t{1} << 63))},
      {"more bytes in the file", refusal_with(field(kFirstHeader + offsetof(P, p_memsz), uint64_t{1}))},
      {"wraps", refusal_with(field(kFirstHeader + offsetof(P, p_paddr), ~uint64_t{0}))},
      {"nothing to load", refusal_with(field(kFirstHeader, uint32_t{PT_NULL}))},
      {"entry lies in none", refusal_with(field(offsetof(H, e_entry), uint64_t{1}))},
  };
  for (const auto& [complaint, said] : cases) EXPECT_NE(said.find(complaint), std::string::npos) << said;
}

TEST(Elf, IsRefusedCutOffAnywhere) {
  const Bytes file = make_elf({.pvh_entry = 0x200010});
  for (size_t size = 0; size < file.size(); ++size) {
    const Bytes cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(ElfLoader::parse(cut)) << size;
  }
}

TEST(Elf, FindsThePvhNoteBehindOthersInBothAlignments) {
  for (const unsigned alignment : {4U, 8U}) {
    const Bytes file = make_elf({.pvh_entry = 0x200010, .note_alignment = alignment});
    const auto layout = ElfLayout::parse(file, file.size());
    ASSERT_TRUE(layout);
    EXPECT_EQ(find_pvh_entry(file, *layout), 0x200010U);
  }
}

TEST(Elf, IgnoresAPvhEntryAbove4GiB) {
  const Bytes file = make_elf({.pvh_entry = uint64_t{1} << 32});
  EXPECT_EQ(find_pvh_entry(file, *ElfLayout::parse(file, file.size())), std::nullopt);
}

TEST(Elf, SurvivesNotesWithHugeSizes) {
  for (const size_t at : {size_t{0x800}, size_t{0x804}}) {
    Bytes file = make_elf({.pvh_entry = 0x200010});
    put(file, at, ~uint32_t{0});
    EXPECT_EQ(find_pvh_entry(file, *ElfLayout::parse(file, file.size())), std::nullopt);
  }
}

TEST(Elf, APayloadWithoutANoteIsEnteredIn64Bit) {
  const Bytes file = make_elf();
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  const BootInfo info = KernelImage(file, "payload").load(memory, {});
  EXPECT_EQ(info.mode, BootInfo::Mode::long64);
  EXPECT_EQ(info.rip, 0x200000U);
  EXPECT_EQ(*memory.load<uint8_t>(Gpa{0x200000}), 0xf4);
  EXPECT_EQ(*memory.load<uint32_t>(Gpa{info.rsi + 0x202}), kHeaderMagic);
}

TEST(Elf, AVirtualEntryIsTranslatedToItsPhysicalPlace) {
  const Bytes file = make_elf({.entry = 0xffffffff81000010, .vaddr = 0xffffffff81000000});
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  EXPECT_EQ(KernelImage(file, "payload").load(memory, {}).rip, 0x200010U);
}

TEST(Elf, PvhGetsItsStartInfo) {
  const Bytes file = make_elf({.pvh_entry = 0x200010});
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  BootConfig config;
  config.cmdline = "quiet";
  config.rsdp = Gpa{0xe0000};
  config.initrd = std::make_shared<Initrd>(Bytes(5000, std::byte{0x42}));
  config.e820 = build_e820(memory, {});
  const BootInfo info = KernelImage(file, "vmlinux").load(memory, config);
  EXPECT_EQ(info.mode, BootInfo::Mode::protected32);
  EXPECT_EQ(info.rip, 0x200010U);
  EXPECT_EQ(info.cr0 & 0x80000001, 1U);  // protected mode, no paging
  EXPECT_EQ(info.cr4, 0U);

  const auto u32 = [&](uint64_t at) { return *memory.load<uint32_t>(Gpa{info.rbx + at}); };
  const auto u64 = [&](uint64_t at) { return *memory.load<uint64_t>(Gpa{info.rbx + at}); };
  EXPECT_EQ(u32(0), 0x336ec578U);
  EXPECT_EQ(u32(4), 1U);   // version
  EXPECT_EQ(u32(12), 1U);  // modules
  EXPECT_EQ(*memory.load<uint64_t>(Gpa{u64(16)}), value(info.initrd.base));
  EXPECT_EQ(*memory.load<uint64_t>(Gpa{u64(16) + 8}), 5000U);
  EXPECT_EQ(*memory.load<uint32_t>(Gpa{u64(24)}), 0x65697571U);  // "quie"
  EXPECT_EQ(u64(32), 0xe0000U);
  ASSERT_EQ(u32(48), config.e820.size());
  for (size_t i = 0; i < config.e820.size(); ++i) {
    EXPECT_EQ(*memory.load<uint64_t>(Gpa{u64(40) + i * 24}), config.e820[i].base);
    EXPECT_EQ(*memory.load<uint64_t>(Gpa{u64(40) + i * 24 + 8}), config.e820[i].size);
    EXPECT_EQ(*memory.load<uint32_t>(Gpa{u64(40) + i * 24 + 16}), static_cast<uint32_t>(config.e820[i].type));
  }
}

TEST(Elf, ThePlainEntryCanBeAskedForInSpiteOfANote) {
  const Bytes file = make_elf({.pvh_entry = 0x200010});
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  BootConfig config;
  config.prefer_pvh = false;
  const BootInfo info = KernelImage(file, "vmlinux").load(memory, config);
  EXPECT_EQ(info.mode, BootInfo::Mode::long64);
  EXPECT_EQ(info.rip, 0x200000U);
}

TEST(Elf, BssIsClearedOverDirtyMemoryOnly) {
  const Bytes file = make_elf();
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  ASSERT_TRUE(memory.fill(Gpa{0x200000}, 0x4000, std::byte{0xaa}));
  KernelImage(file, "vmlinux").load(memory, {});
  EXPECT_EQ(*memory.load<uint8_t>(Gpa{0x200100}), 0);
  EXPECT_EQ(*memory.load<uint8_t>(Gpa{0x201fff}), 0);
  EXPECT_EQ(*memory.load<uint8_t>(Gpa{0x202000}), 0xaa);
}

TEST(Elf, SegmentsOutsideMemoryOrOnTheBootDataAreRefusedWithTheirAddress) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  for (const uint64_t place : {uint64_t{0x7000}, 32 * kMiB - 0x1000, uint64_t{0xa0000}, uint64_t{1} << 40}) {
    const Bytes file = make_elf({.entry = place, .paddr = place, .vaddr = place});
    const std::string error = error_of([&] { KernelImage(file, "payload").load(memory, {}); });
    EXPECT_NE(error.find("does not fit"), std::string::npos) << place;
  }
  const Bytes huge = make_elf({.memory_size = uint64_t{1} << 50});
  EXPECT_NE(error_of([&] { KernelImage(huge, "payload").load(memory, {}); }), "");
}

TEST(Elf, TheInitrdLeavesTheSegmentsAlone) {
  const Bytes file = make_elf({.entry = 31 * kMiB, .paddr = 31 * kMiB, .vaddr = 31 * kMiB});
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  BootConfig config;
  config.initrd = std::make_shared<Initrd>(Bytes(2 * kMiB));
  EXPECT_EQ(KernelImage(file, "payload").load(memory, config).initrd.base, Gpa{29 * kMiB});
}

}  // namespace
}  // namespace minivmm
