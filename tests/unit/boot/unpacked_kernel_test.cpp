#include "boot/unpacked_kernel.h"

#include <gtest/gtest.h>

#include <set>

#include "boot/kernel_image.h"
#include "tests/unit/boot/kernel_builder.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

constexpr uint64_t kMiB = 1 << 20;

GuestMemory guest(uint64_t mib = 64) {
  return GuestMemory::anonymous({{Gpa{0}, mib * kMiB}});
}

BootConfig config_with(std::string cmdline) {
  BootConfig config;
  config.cmdline = std::move(cmdline);
  config.memory_is_zero = true;
  return config;
}

BootInfo boot(const Bytes& file, GuestMemory& memory, const BootConfig& config) {
  return KernelImage(file, "kernel").load(memory, config);
}

bool direct(const BootInfo& info) {
  return info.kernel_kind.find("entered directly") != std::string::npos;
}

Bytes image_at(const GuestMemory& memory, const BootInfo& info) {
  Bytes out(kImageSize);
  EXPECT_TRUE(memory.read(info.kernel.base, out));
  return out;
}

bool rest_is_zero(const GuestMemory& memory, const BootInfo& info) {
  Bytes rest(info.kernel.size - kImageSize);
  EXPECT_TRUE(memory.read(info.kernel.base + kImageSize, rest));
  return std::ranges::all_of(rest, [](std::byte b) { return b == std::byte{0}; });
}

uint8_t loadflags(const GuestMemory& memory, const BootInfo& info) {
  return *memory.load<uint8_t>(Gpa{info.rsi + offsetof(BootParams, hdr) + offsetof(SetupHeader, loadflags)});
}

class EachCompression : public ::testing::TestWithParam<Compression> {};
INSTANTIATE_TEST_SUITE_P(Unpacked, EachCompression,
                         ::testing::Values(Compression::gzip, Compression::lz4, Compression::xz,
                                           Compression::zstd),
                         [](const auto& param_info) { return std::string(name_of(param_info.param)); });

TEST_P(EachCompression, IsEnteredDirectlyWhereItWasLinkedWithNokaslr) {
  auto memory = guest();
  const BootInfo info = boot(make_bzimage({.compression = GetParam()}), memory, config_with("a nokaslr b"));
  ASSERT_TRUE(direct(info)) << info.kernel_kind;
  EXPECT_EQ(info.mode, BootInfo::Mode::long64);
  EXPECT_EQ(info.rip, kLoadAddress + kEntryOffset);
  EXPECT_EQ(image_at(memory, info), vmlinux_image(0));
  EXPECT_TRUE(rest_is_zero(memory, info));
  EXPECT_EQ(loadflags(memory, info), kLoadedHigh);
}

TEST_P(EachCompression, IsRelocatedToARandomPlace) {
  auto memory = guest();
  const BootInfo info = boot(make_bzimage({.compression = GetParam()}), memory, config_with(""));
  ASSERT_TRUE(direct(info)) << info.kernel_kind;
  EXPECT_EQ(info.rip, value(info.kernel.base) + kEntryOffset);
  EXPECT_EQ(info.virtual_offset % kAlignment, 0U);
  EXPECT_EQ(value(info.kernel.base) % kAlignment, 0U);
  EXPECT_LE(info.virtual_offset, (uint64_t{1} << 30) - kLoadAddress - info.kernel.size);
  EXPECT_EQ(image_at(memory, info), vmlinux_image(info.virtual_offset));
  EXPECT_TRUE(rest_is_zero(memory, info));
  EXPECT_EQ(loadflags(memory, info), kLoadedHigh | kKaslrFlag);
}

TEST_P(EachCompression, SaysThatADamagedPayloadIsDamaged) {
  Bytes file = make_bzimage({.compression = GetParam(), .relocations = Relocations::none});
  const SetupHeader h = header_of(file);
  // The end of the compressed data, before the size: what a bad download looks like.
  const size_t end = 2048 + h.payload_offset + h.payload_length;
  for (size_t at = end - 40; at < end - 8; ++at) file[at] = ~file[at];
  auto memory = guest();
  const std::string error = error_of([&] { boot(file, memory, config_with("nokaslr")); });
  EXPECT_NE(error.find("damaged"), std::string::npos) << error;
}

TEST_P(EachCompression, NeverUnpacksMoreThanInitSize) {
  const Bytes bomb(8 * kMiB);
  auto memory = guest();
  Bytes file = wrap_payload(compress(GetParam(), bomb));
  EXPECT_FALSE(direct(boot(file, memory, config_with(""))));
}

TEST(UnpackedKernel, MovesBetweenBoots) {
  const Bytes file = make_bzimage();
  const KernelImage kernel(file, "kernel");
  std::set<uint64_t> virtual_offsets;
  std::set<uint64_t> places;
  for (int i = 0; i < 8; ++i) {
    auto memory = guest();
    const BootInfo info = kernel.load(memory, config_with(""));
    virtual_offsets.insert(info.virtual_offset);
    places.insert(value(info.kernel.base));
  }
  EXPECT_GT(virtual_offsets.size(), 1U);
  EXPECT_GT(places.size(), 1U);
}

TEST(UnpackedKernel, ClearsWhatAnEarlierBootLeftBehind) {
  const Bytes file = make_bzimage();
  const KernelImage kernel(file, "kernel");
  auto memory = guest();
  ASSERT_TRUE(memory.fill(Gpa{kMiB}, 63 * kMiB, std::byte{0xaa}));
  BootConfig config = config_with("");
  config.memory_is_zero = false;
  const BootInfo info = kernel.load(memory, config);
  EXPECT_EQ(image_at(memory, info), vmlinux_image(info.virtual_offset));
  EXPECT_TRUE(rest_is_zero(memory, info));
}

TEST(UnpackedKernel, ReadsTheTableOfNewerKernelsWithoutInverseRelocations) {
  auto memory = guest();
  const BootInfo info = boot(make_bzimage({.relocations = Relocations::two_lists}), memory, config_with(""));
  ASSERT_TRUE(direct(info));
  Bytes expected = vmlinux_image(info.virtual_offset);
  put(expected, kInversePlace, get<uint32_t>(vmlinux_image(0), kInversePlace));
  EXPECT_EQ(image_at(memory, info), expected);
}

TEST(UnpackedKernel, StaysInItsPlaceWithoutRelocations) {
  auto memory = guest();
  const BootInfo info = boot(make_bzimage({.relocations = Relocations::none}), memory, config_with(""));
  ASSERT_TRUE(direct(info));
  EXPECT_EQ(info.kernel.base, Gpa{kLoadAddress});
  EXPECT_EQ(info.virtual_offset, 0U);
  EXPECT_EQ(loadflags(memory, info), kLoadedHigh);
}

TEST(UnpackedKernel, StaysInItsPlaceWhenTheCommandLineLimitsMemory) {
  for (const char* option : {"mem=32M", "memmap=1M$48M", "hugepages=2"}) {
    auto memory = guest();
    const BootInfo info = boot(make_bzimage(), memory, config_with(option));
    ASSERT_TRUE(direct(info));
    EXPECT_EQ(info.kernel.base, Gpa{kLoadAddress}) << option;
  }
}

TEST(UnpackedKernel, LeavesAnUnknownRelocationTableToTheGuest) {
  for (const Relocations kind : {Relocations::four_lists, Relocations::outside}) {
    auto memory = guest();
    const BootInfo info = boot(make_bzimage({.relocations = kind}), memory, config_with(""));
    EXPECT_FALSE(direct(info));
    EXPECT_EQ(info.rip, kLoadAddress + 0x200);
  }
}

TEST(UnpackedKernel, LeavesAnUnknownCompressionToTheGuest) {
  auto memory = guest();
  EXPECT_FALSE(direct(boot(make_bzimage({.compression = std::nullopt}), memory, config_with(""))));
}

TEST(UnpackedKernel, LeavesAnUnknownLayoutToTheGuest) {
  const auto with = [](auto&& spoil) {
    Bytes elf = make_vmlinux();
    spoil(elf);
    auto memory = guest();
    return direct(boot(wrap_payload(compress(Compression::lz4, elf)), memory, config_with("")));
  };
  constexpr size_t kHeaders = 64;
  constexpr size_t kHeaderSize = 56;
  EXPECT_TRUE(with([](Bytes&) {}));
  EXPECT_FALSE(with([](Bytes& elf) { put(elf, 0, uint32_t{0}); })) << "no ELF";
  EXPECT_FALSE(with([](Bytes& elf) { put(elf, 24, uint64_t{0x5000}); })) << "entry elsewhere";
  EXPECT_FALSE(with([](Bytes& elf) { put(elf, kHeaders + 24, uint64_t{0x2000000}); })) << "linked elsewhere";
  EXPECT_FALSE(with([](Bytes& elf) { put(elf, kHeaders + 16, uint64_t{0x1000}); }))
      << "other virtual address";
  EXPECT_FALSE(with([](Bytes& elf) { put(elf, kHeaders + 3 * kHeaderSize + 24, kLoadAddress + 0x50000); }))
      << "a segment that would move up";
  EXPECT_FALSE(with([](Bytes& elf) { put(elf, kHeaders + kHeaderSize + 24, kLoadAddress + 0x1000); }))
      << "overlapping segments";
  EXPECT_FALSE(with([](Bytes& elf) { put(elf, kHeaders + 3 * kHeaderSize + 40, uint64_t{1} << 40); }))
      << ".bss past init_size";
}

TEST(UnpackedKernel, LeavesMemoryThatIsTooSmallToTheGuest) {
  // The preferred place is free, but not what lies before it, which we would unpack the ELF header to.
  auto memory = guest(32);
  BootConfig config = config_with("nokaslr");
  config.reserved = {{Gpa{kLoadAddress - 0x1000}, 0x1000}};
  const BootInfo info = boot(make_bzimage(), memory, config);
  EXPECT_FALSE(direct(info));
}

TEST(UnpackedKernel, NeverTouchesTheInitrdOrReservedMemory) {
  const Bytes file = make_bzimage();
  const KernelImage kernel(file, "kernel");
  BootConfig config = config_with("");
  config.initrd = std::make_shared<Initrd>(Bytes(8 * kMiB, std::byte{0x42}));
  config.reserved = {{Gpa{20 * kMiB}, 2 * kMiB}};
  for (int i = 0; i < 10; ++i) {
    auto memory = guest(32);
    ASSERT_TRUE(memory.fill(Gpa{20 * kMiB}, 2 * kMiB, std::byte{0x17}));
    const BootInfo info = kernel.load(memory, config);
    Bytes initrd(8 * kMiB);
    ASSERT_TRUE(memory.read(info.initrd.base, initrd));
    ASSERT_EQ(initrd, Bytes(8 * kMiB, std::byte{0x42}));
    Bytes reserved(2 * kMiB);
    ASSERT_TRUE(memory.read(Gpa{20 * kMiB}, reserved));
    ASSERT_EQ(reserved, Bytes(2 * kMiB, std::byte{0x17}));
  }
}

TEST(UnpackedKernel, IsEnteredWithFiveLevelsWhereTheDecompressorWouldSwitch) {
  const auto mode = [](bool has_la57, bool kernel_can, const char* cmdline) {
    Bytes file = make_bzimage();
    SetupHeader h = header_of(file);
    if (!kernel_can) h.xloadflags = kXlfKernel64;
    set_header(file, h);
    auto memory = guest();
    BootConfig config = config_with(cmdline);
    config.has_la57 = has_la57;
    return boot(file, memory, config).mode;
  };
  EXPECT_EQ(mode(true, true, ""), BootInfo::Mode::long64_5level);
  EXPECT_EQ(mode(false, true, ""), BootInfo::Mode::long64);
  EXPECT_EQ(mode(true, false, ""), BootInfo::Mode::long64);
  EXPECT_EQ(mode(true, true, "no5lvl"), BootInfo::Mode::long64);
}

}  // namespace
}  // namespace minivmm
