#include <gtest/gtest.h>

#include "boot/kernel_image.h"
#include "boot/low_memory.h"
#include "tests/unit/boot/kernel_builder.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

// The in-guest decompressor's way, which every bzImage can go.
BootConfig plain_config() {
  BootConfig config;
  config.cmdline = "console=ttyS0";
  config.unpack = false;
  return config;
}

BootParams params_of(const GuestMemory& memory, const BootInfo& info) {
  BootParams params{};
  EXPECT_TRUE(memory.read(Gpa{info.rsi}, std::as_writable_bytes(std::span(&params, 1))));
  return params;
}

Bytes read(const GuestMemory& memory, Gpa where, size_t size) {
  Bytes out(size);
  EXPECT_TRUE(memory.read(where, out));
  return out;
}

TEST(BzImageLoad, EntersTheDecompressorAtItsPreferredAddress) {
  const Bytes file = make_bzimage({.compression = std::nullopt});
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 64 * kMiB}});
  const BootInfo info = kernel.load(memory, plain_config());
  EXPECT_EQ(info.mode, BootInfo::Mode::long64);
  EXPECT_EQ(info.rip, kLoadAddress + 0x200);
  const Bytes code(file.begin() + 2048, file.end());
  EXPECT_EQ(read(memory, Gpa{kLoadAddress}, code.size()), code);
  EXPECT_NE(info.kernel_kind.find("6.1.0-test"), std::string::npos);
}

TEST(BzImageLoad, FillsTheZeroPage) {
  const Bytes file = make_bzimage();
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 64 * kMiB}});
  BootConfig config = plain_config();
  config.rsdp = Gpa{0xe0000};
  config.initrd = std::make_shared<Initrd>(Bytes(5000, std::byte{0x42}));
  config.e820 = build_e820(memory, {});
  const BootInfo info = kernel.load(memory, config);

  const BootParams params = params_of(memory, info);
  EXPECT_EQ(+params.acpi_rsdp_addr, 0xe0000U);
  EXPECT_EQ(+params.hdr.type_of_loader, 0xff);
  EXPECT_EQ(+params.hdr.boot_flag, kBootFlag);
  EXPECT_EQ(+params.hdr.header, kHeaderMagic);
  EXPECT_EQ(+params.hdr.code32_start, kLoadAddress);
  EXPECT_EQ(+params.hdr.ramdisk_size, 5000U);
  EXPECT_EQ(+params.hdr.ramdisk_image % kPageSize, 0U);
  ASSERT_EQ(params.e820_entries, config.e820.size());
  for (size_t i = 0; i < config.e820.size(); ++i) {
    EXPECT_EQ(+params.e820_table[i].addr, config.e820[i].base);
    EXPECT_EQ(+params.e820_table[i].size, config.e820[i].size);
    EXPECT_EQ(+params.e820_table[i].type, static_cast<uint32_t>(config.e820[i].type));
  }
  const Bytes line = read(memory, Gpa{params.hdr.cmd_line_ptr}, 14);
  EXPECT_STREQ(reinterpret_cast<const char*>(line.data()), "console=ttyS0");
  EXPECT_EQ(read(memory, Gpa{params.hdr.ramdisk_image}, 5000), Bytes(5000, std::byte{0x42}));
}

TEST(BzImageLoad, PutsTheInitrdAtTheEndOfMemory) {
  const Bytes file = make_bzimage();
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 64 * kMiB}});
  BootConfig config = plain_config();
  config.initrd = std::make_shared<Initrd>(Bytes(5000));
  EXPECT_EQ(kernel.load(memory, config).initrd.base, Gpa{64 * kMiB - 8192});
}

TEST(BzImageLoad, KeepsTheInitrdBelowInitrdAddrMax) {
  const Bytes file = make_bzimage();  // 0x7fffffff
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 3 * kGiB}, {Gpa{4 * kGiB}, 2 * kGiB}});
  BootConfig config = plain_config();
  config.initrd = std::make_shared<Initrd>(Bytes(4096));
  EXPECT_EQ(kernel.load(memory, config).initrd.base, Gpa{2 * kGiB - 4096});
}

TEST(BzImageLoad, KeepsTheInitrdOffReservedMemory) {
  const Bytes file = make_bzimage();
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 64 * kMiB}});
  BootConfig config = plain_config();
  config.initrd = std::make_shared<Initrd>(Bytes(4096));
  config.reserved = {{Gpa{63 * kMiB}, kMiB}};
  EXPECT_EQ(kernel.load(memory, config).initrd.base, Gpa{63 * kMiB - 4096});
}

TEST(BzImageLoad, SaysWithNumbersThatAnInitrdDoesNotFit) {
  const Bytes file = make_bzimage();
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  BootConfig config = plain_config();
  config.initrd = std::make_shared<Initrd>(Bytes(20 * kMiB));
  const std::string error = error_of([&] { kernel.load(memory, config); });
  EXPECT_NE(error.find("needs 20480 KiB"), std::string::npos) << error;
  EXPECT_NE(error.find("--memory"), std::string::npos) << error;
}

TEST(BzImageLoad, SaysWithNumbersThatTheKernelDoesNotFit) {
  Bytes file = make_bzimage();
  SetupHeader h = header_of(file);
  h.init_size = 20 * kMiB;
  set_header(file, h);
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  const std::string error = error_of([&] { kernel.load(memory, plain_config()); });
  EXPECT_NE(error.find("needs 20 MiB"), std::string::npos) << error;
}

TEST(BzImageLoad, FindsAnotherPlaceWhenThePreferredOneIsTaken) {
  const Bytes file = make_bzimage({.compression = std::nullopt});
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 64 * kMiB}});
  BootConfig config = plain_config();
  config.reserved = {{Gpa{kLoadAddress + 0x8000}, 4096}};
  EXPECT_EQ(kernel.load(memory, config).kernel.base, Gpa{kLoadAddress + 0x10000});
}

TEST(BzImageLoad, DoesNotMoveAKernelThatIsNotRelocatable) {
  Bytes file = make_bzimage({.compression = std::nullopt});
  SetupHeader h = header_of(file);
  h.relocatable_kernel = 0;
  set_header(file, h);
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 64 * kMiB}});
  BootConfig config = plain_config();
  config.reserved = {{Gpa{kLoadAddress}, 4096}};
  EXPECT_NE(error_of([&] { kernel.load(memory, config); }), "");
}

TEST(BzImageLoad, RefusesACommandLineThatIsTooLong) {
  const Bytes file = make_bzimage();
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 64 * kMiB}});
  BootConfig config = plain_config();
  config.cmdline = std::string(2047, 'x');
  EXPECT_EQ(error_of([&] { kernel.load(memory, config); }), "");
  config.cmdline += 'x';
  const std::string error = error_of([&] { kernel.load(memory, config); });
  EXPECT_NE(error.find("2048 bytes"), std::string::npos) << error;
}

TEST(BzImageLoad, BoundsTheCommandLineWhateverTheHeaderAllows) {
  Bytes file = make_bzimage();
  SetupHeader h = header_of(file);
  h.cmdline_size = ~0U;
  set_header(file, h);
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 64 * kMiB}});
  BootConfig config = plain_config();
  config.cmdline = std::string(kCommandLineArea, 'x');
  EXPECT_NE(error_of([&] { kernel.load(memory, config); }), "");
}

TEST(BzImageLoad, RefusesAMemoryMapThatTheZeroPageCannotHold) {
  const Bytes file = make_bzimage();
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 64 * kMiB}});
  BootConfig config = plain_config();
  config.e820 = build_e820(memory, {});
  for (uint64_t i = 0; config.e820.size() <= kMaxE820Entries; ++i)
    config.e820.push_back({8 * kGiB + i * 8192, 4096, E820Type::reserved});
  EXPECT_NE(error_of([&] { kernel.load(memory, config); }).find("129 entries"), std::string::npos);
}

TEST(BzImageLoad, LoadsTheSameAgainOverDirtyMemory) {
  const Bytes file = make_bzimage({.compression = std::nullopt});
  const KernelImage kernel(file, "kernel");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 32 * kMiB}});
  const BootInfo first = kernel.load(memory, plain_config());
  const Bytes low = read(memory, kBootDataBase, kBootDataSize);
  ASSERT_TRUE(memory.fill(kBootDataBase, kBootDataSize, std::byte{0}));
  ASSERT_TRUE(memory.fill(Gpa{kLoadAddress}, kMiB, std::byte{0xaa}));
  const BootInfo second = kernel.load(memory, plain_config());
  EXPECT_EQ(second.rip, first.rip);
  EXPECT_EQ(second.cr3, first.cr3);
  EXPECT_EQ(read(memory, kBootDataBase, kBootDataSize), low);
}

}  // namespace
}  // namespace minivmm
