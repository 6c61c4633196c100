#include "vmm/machine/boot_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "devices/block/raw.h"
#include "tests/temp_folder.h"
#include "tests/unit/boot/flatcar_disk.h"
#include "vmm/core/error.h"
#include "vmm/machine/plan.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class BootChoiceTest : public ::testing::Test {
 protected:
  std::string file(const std::string& name, std::span<const std::byte> contents) {
    const auto path = (folder_.path() / name).string();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(contents.data()), static_cast<std::streamsize>(contents.size()));
    return path;
  }
  MachineConfig config(const FlatcarSpec& spec) {
    MachineConfig c;
    c.virtio.push_back({"blk", file("flatcar.img", make_flatcar_disk(spec)) + ",readonly=on"});
    return c;
  }
  std::string refusal(const MachineConfig& c) {
    return error_of([&c] { plan_machine(c, 40); });
  }
  test::TempFolder folder_;
  const std::string kernel_ = flatcar_kernel('5');
  const std::span<const std::byte> given_ = std::as_bytes(std::span(kernel_));
};

TEST_F(BootChoiceTest, AFlatcarDiskAloneBringsKernelAndCommandLine) {
  MachineConfig c = config({});
  c.append = "quiet";
  const MachinePlan plan = plan_machine(c, 40);
  ASSERT_TRUE(plan.flatcar);
  EXPECT_EQ(plan.flatcar->kernel, "/flatcar/vmlinuz-a");
  EXPECT_TRUE(plan.flatcar->first_boot);
  EXPECT_THAT(plan.cmdline, StartsWith("BOOT_IMAGE=/flatcar/vmlinuz-a mount.usr=/dev/mapper/usr "));
  EXPECT_THAT(plan.cmdline, HasSubstr(" verity.usrhash=" + std::string(64, 'a') + " quiet"));
}

TEST_F(BootChoiceTest, AGivenKernelsHashIsTaken) {
  MachineConfig c = config({});
  c.kernel = file("vmlinuz", given_);
  EXPECT_THAT(plan_machine(c, 40).cmdline, HasSubstr(" verity.usrhash=" + std::string(64, '5')));
}

TEST_F(BootChoiceTest, AGivenCommandLineIsTakenWhole) {
  MachineConfig c = config({});
  c.cmdline = "console=ttyS0";
  const MachinePlan plan = plan_machine(c, 40);
  EXPECT_EQ(plan.cmdline, "console=ttyS0");
  ASSERT_TRUE(plan.flatcar) << "the kernel is still the disk's";
  c.kernel = "not looked at";
  EXPECT_FALSE(plan_machine(c, 40).flatcar);
}

TEST_F(BootChoiceTest, ADiskWithoutAKernelIsRefusedByName) {
  MachineConfig c = config({.kernel_a = ""});
  EXPECT_THAT(refusal(c), HasSubstr("flatcar.img' has no kernel that minivmm can start: no "
                                    "/flatcar/vmlinuz-a on the EFI partition; give --kernel"));
  c.virtio = {{"blk", file("empty.img", Bytes(1 << 20))}};
  EXPECT_THAT(refusal(c),
              HasSubstr("empty.img' has no kernel that minivmm can start: no GPT; give --kernel"));
  c.virtio.clear();
  EXPECT_THROW(plan_machine(c, 40), ConfigError);
}

TEST_F(BootChoiceTest, AFlatcarDiskThatCannotBootNeedsACommandLine) {
  MachineConfig c = config({.a = {}});
  c.kernel = file("vmlinuz", given_);
  EXPECT_THAT(refusal(c),
              HasSubstr("no /usr partition with tries left or a successful boot; give --cmdline"));
}

TEST_F(BootChoiceTest, AnotherKindOfDiskIsARootDisk) {
  MachineConfig c;
  c.kernel = file("vmlinuz", given_);
  c.virtio = {{"blk", file("empty.img", Bytes(1 << 20))}};
  const MachinePlan plan = plan_machine(c, 40);
  EXPECT_FALSE(plan.flatcar);
  EXPECT_THAT(plan.cmdline, Not(HasSubstr("mount.usr")));
}

TEST_F(BootChoiceTest, EachBootLooksAnewAndTakesATry) {
  MachineConfig c = config({.b = {.priority = 2, .tries = 1}, .kernel_b = flatcar_kernel('b')});
  Log log(LogLevel::warn, [](LogLevel, std::string_view) {});
  const auto image = RawImage::open((folder_.path() / "flatcar.img").string(), BlockFileOptions{});
  DiskBytes disk(*image);
  const DiskBoot first = boot_from_disk(c, disk, log);
  EXPECT_THAT(first.cmdline, HasSubstr("vmlinuz-b"));
  EXPECT_EQ(first.kernel.size(), flatcar_kernel('b').size());
  const DiskBoot second = boot_from_disk(c, disk, log);
  EXPECT_THAT(second.cmdline, HasSubstr("vmlinuz-a")) << "the try is used up";
}

TEST_F(BootChoiceTest, AReadOnlyDiskKeepsItsTries) {
  const MachineConfig c = config({.b = {.priority = 2, .tries = 1}, .kernel_b = flatcar_kernel('b')});
  Log log(LogLevel::warn, [](LogLevel, std::string_view line) { ADD_FAILURE() << line; });
  const auto image =
      RawImage::open((folder_.path() / "flatcar.img").string(), BlockFileOptions{.read_only = true});
  DiskBytes disk(*image);
  boot_from_disk(c, disk, log);
  EXPECT_THAT(boot_from_disk(c, disk, log).cmdline, HasSubstr("vmlinuz-b"));
}

TEST_F(BootChoiceTest, TheDisksBytesAreReadAtAnyOffset) {
  Bytes contents(3 << 20);
  for (size_t i = 0; i < contents.size(); ++i) contents[i] = static_cast<std::byte>(i * 31 >> 3);
  file("disk.img", contents);
  const auto image =
      RawImage::open((folder_.path() / "disk.img").string(), BlockFileOptions{.read_only = true});
  const DiskBytes disk(*image);
  for (const auto& [offset, length] : {std::pair<size_t, size_t>{0, 1},
                                       {511, 2},
                                       {1000, (2 << 20) + 77},
                                       {(3 << 20) - 5, 5},
                                       {3 << 20, 0}}) {
    Bytes out(length);
    ASSERT_TRUE(disk.read(offset, out)) << offset;
    EXPECT_TRUE(std::ranges::equal(out, std::span(contents).subspan(offset, length))) << offset;
  }
  Bytes out(6);
  EXPECT_FALSE(disk.read((3 << 20) - 5, out));
}

}  // namespace
}  // namespace minivmm
