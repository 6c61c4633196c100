#include "boot/flatcar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/boot/disk/gpt_builder.h"
#include "tests/unit/boot/disk/memory_disk.h"
#include "tests/unit/boot/flatcar_disk.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

FlatcarBoot inspect(const FlatcarSpec& spec, std::optional<std::string> given = std::nullopt) {
  std::optional<std::span<const std::byte>> head;
  if (given) head = std::as_bytes(std::span(*given));
  auto boot = inspect_flatcar(MemoryDisk(make_flatcar_disk(spec)), head);
  EXPECT_TRUE(boot) << boot.error().reason;
  return boot.value_or(FlatcarBoot{});
}

std::string refusal(const Bytes& disk) {
  const auto boot = inspect_flatcar(MemoryDisk(disk), std::nullopt);
  return boot ? "" : boot.error().reason;
}

const std::string kVerityA =
    "mount.usr=/dev/mapper/usr verity.usr=PARTUUID=7130c94a-213a-4e5a-8e26-6cce9662f132 ";
const std::string kVerityB =
    "mount.usr=/dev/mapper/usr verity.usr=PARTUUID=e03dd35c-7c2d-4a47-b3fe-27f15780a57c ";
const std::string kFixed = "rootflags=rw mount.usrflags=ro consoleblank=0 root=LABEL=ROOT ";
const std::string kSerial = "console=ttyS0,115200n8 ";
const std::string kFirst = "flatcar.first_boot=detected ";
const std::string kRandomize = "flatcar.randomize_disk_guid=00000000-0000-0000-0000-000000000001 ";

std::string hash(char digit) {
  return " verity.usrhash=" + std::string(64, digit);
}

TEST(Flatcar, AFreshImageBootsItsKernelForTheFirstTime) {
  const FlatcarBoot boot = inspect({});
  EXPECT_EQ(boot.kernel, "/flatcar/vmlinuz-a");
  EXPECT_EQ(boot.slot, 'a');
  EXPECT_TRUE(boot.first_boot);
  EXPECT_EQ(boot.tries, 0U);
  EXPECT_EQ(boot.cmdline, "BOOT_IMAGE=/flatcar/vmlinuz-a " + kVerityA + kFixed + kSerial + kFirst +
                              kRandomize + "flatcar.oem.id=qemu" + hash('a'));
  EXPECT_THAT(boot.warnings, IsEmpty());
}

TEST(Flatcar, ALaterBootIsNoFirstBoot) {
  const FlatcarBoot boot = inspect({.first_boot = false, .disk = kFlatcarUsrB});
  EXPECT_FALSE(boot.first_boot);
  EXPECT_EQ(boot.cmdline, "BOOT_IMAGE=/flatcar/vmlinuz-a " + kVerityA + kFixed + kSerial +
                              "flatcar.oem.id=qemu" + hash('a'));
}

TEST(Flatcar, AGivenKernelBringsItsOwnHash) {
  const FlatcarBoot boot = inspect({}, flatcar_kernel('7'));
  EXPECT_EQ(boot.kernel, "");
  EXPECT_EQ(boot.cmdline,
            kVerityA + kFixed + kSerial + kFirst + kRandomize + "flatcar.oem.id=qemu" + hash('7'));
}

TEST(Flatcar, AnUpdateWithTriesLeftGoesFirst) {
  const FlatcarBoot boot =
      inspect({.b = {.priority = 2, .tries = 1}, .kernel_b = flatcar_kernel('b'), .first_boot = false});
  EXPECT_EQ(boot.slot, 'b');
  EXPECT_EQ(boot.tries, 1U);
  EXPECT_EQ(boot.cmdline, "BOOT_IMAGE=/flatcar/vmlinuz-b " + kVerityB + kFixed + kSerial + kRandomize +
                              "flatcar.oem.id=qemu" + hash('b'));
}

TEST(Flatcar, TheSlotIsChosenAsGptprioDoes) {
  const auto slot = [](SlotSpec a, SlotSpec b) {
    const auto disk = make_flatcar_disk({.a = a, .b = b, .kernel_b = flatcar_kernel('b')});
    const auto boot = inspect_flatcar(MemoryDisk(disk), std::nullopt);
    return boot ? std::string(1, boot->slot) : boot.error().reason;
  };
  const std::string none = "no /usr partition with tries left or a successful boot";
  EXPECT_EQ(slot({1, 0, true}, {2, 0, false}), "a") << "an update whose tries are used up";
  EXPECT_EQ(slot({1, 0, true}, {2, 0, true}), "b") << "an update that has proved itself";
  EXPECT_EQ(slot({1, 0, true}, {1, 0, true}), "a") << "the first of equals";
  EXPECT_EQ(slot({0, 0, true}, {0, 3, true}), none) << "priority 0 is never chosen";
  EXPECT_EQ(slot({3, 0, false}, {2, 0, false}), none);
  EXPECT_EQ(slot({15, 15, false}, {14, 15, true}), "a");
}

TEST(Flatcar, ASlotWithoutItsKernelGivesWayToTheOther) {
  const FlatcarBoot boot = inspect({.b = {.priority = 2, .tries = 1}});
  EXPECT_EQ(boot.slot, 'a');
  EXPECT_THAT(boot.warnings,
              ElementsAre("no /flatcar/vmlinuz-b on the EFI partition: falling back to USR-A"));
}

TEST(Flatcar, OemArgumentsAreWhereGrubPutsThem) {
  const FlatcarBoot boot = inspect({.oem = "# Flatcar GRUB settings\n"
                                           "set oem_id=\"ec2\"\n"
                                           "set linux_console=\"console=tty1 console=ttyS0,9600\"\n"
                                           "set linux_append=\"$linux_append flatcar.autologin\"\n"
                                           "set linux_append=\"$linux_append net.ifnames=0\"\n"
                                           "set linux_root=\"root=LABEL=ROOT rootfstype=ext4\"\n",
                                    .disk = kFlatcarUsrB});
  EXPECT_EQ(boot.cmdline,
            "BOOT_IMAGE=/flatcar/vmlinuz-a " + kVerityA +
                "rootflags=rw mount.usrflags=ro consoleblank=0 root=LABEL=ROOT rootfstype=ext4 "
                "console=tty1 console=ttyS0,9600 flatcar.first_boot=detected flatcar.oem.id=ec2 "
                "flatcar.autologin net.ifnames=0" +
                hash('a'));
}

TEST(Flatcar, WithoutAnOemFileThePlatformIsQemu) {
  const FlatcarBoot boot = inspect({.oem = std::nullopt});
  EXPECT_THAT(boot.cmdline, HasSubstr(" flatcar.oem.id=qemu "));
  EXPECT_THAT(boot.warnings, IsEmpty());
}

TEST(Flatcar, AnOemFileSystemThatIsNotReadIsSaidSo) {
  Bytes xfs(4096);
  put(xfs, 0, std::array{'X', 'F', 'S', 'B'});
  EXPECT_THAT(
      inspect({.oem_partition = xfs}).warnings,
      ElementsAre(
          "the OEM partition holds xfs, which minivmm does not read: no arguments are taken from it"));
  EXPECT_THAT(inspect({.oem_partition = Bytes(4096)}).warnings,
              ElementsAre("the OEM partition holds no file system that minivmm knows: no arguments are taken "
                          "from it"));
}

TEST(Flatcar, AnOemFileThatIsTooLargeIsSaidSo) {
  const FlatcarBoot boot = inspect({.oem = "set oem_id=ec2\n" + std::string(65536, '#')});
  EXPECT_THAT(boot.cmdline, HasSubstr(" flatcar.oem.id=qemu "));
  EXPECT_THAT(boot.warnings, ElementsAre("cannot read the OEM partition's grub.cfg (it is larger than 64 "
                                         "KiB): no arguments are taken"));
}

TEST(Flatcar, ConditionsInTheOemFileAreSaidNotToBeEvaluated) {
  const FlatcarBoot boot = inspect({.oem = "if true; then\n set linux_append=x\nfi\n"});
  EXPECT_THAT(boot.warnings, ElementsAre(HasSubstr("under conditions")));
}

TEST(Flatcar, ControlCharactersDoNotReachTheCommandLine) {
  const FlatcarBoot boot = inspect({.oem = "set linux_append='a\nb\x1b[2Jc'\n"});
  EXPECT_THAT(boot.cmdline, HasSubstr(" a b [2Jc verity.usrhash="));
}

TEST(Flatcar, AKernelWithoutAHashMountsUsrUnverified) {
  std::string kernel = flatcar_kernel('a');
  kernel[0x40 + 63] = 'G';
  const FlatcarBoot boot = inspect({.kernel_a = kernel, .disk = kFlatcarUsrB});
  EXPECT_EQ(boot.cmdline,
            "BOOT_IMAGE=/flatcar/vmlinuz-a mount.usr=PARTUUID=7130c94a-213a-4e5a-8e26-6cce9662f132 " +
                kFixed + kSerial + "flatcar.first_boot=detected flatcar.oem.id=qemu");
  EXPECT_THAT(boot.warnings, ElementsAre(HasSubstr("unverified")));
}

TEST(Flatcar, OnlyLowerCaseHexadecimalDigitsAreAHash) {
  const auto hash_of = [](std::string kernel) { return flatcar_usrhash(std::as_bytes(std::span(kernel))); };
  EXPECT_EQ(hash_of(flatcar_kernel('f')), std::string(64, 'f'));
  EXPECT_FALSE(hash_of(flatcar_kernel('F')));
  EXPECT_FALSE(hash_of(flatcar_kernel('\0')));
  EXPECT_FALSE(hash_of(flatcar_kernel('a').substr(0, 0x7f)));
}

TEST(Flatcar, TheKernelIsReadWhole) {
  const MemoryDisk disk(make_flatcar_disk({}));
  const auto boot = inspect_flatcar(disk, std::nullopt);
  ASSERT_TRUE(boot);
  const auto kernel = read_flatcar_kernel(disk, *boot);
  ASSERT_TRUE(kernel);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(kernel->data()), kernel->size()), flatcar_kernel('a'));
}

TEST(Flatcar, ATryIsTakenAtEachBootUntilTheOtherSlotHasItsTurn) {
  MemoryDisk disk(make_flatcar_disk({.b = {.priority = 2, .tries = 2}, .kernel_b = flatcar_kernel('b')}));
  std::string slots;
  for (int boots = 0; boots < 4; ++boots) {
    const auto boot = inspect_flatcar(disk, std::nullopt);
    ASSERT_TRUE(boot);
    slots += boot->slot;
    ASSERT_TRUE(take_flatcar_try(disk, disk, *boot));
  }
  EXPECT_EQ(slots, "bbaa");
}

TEST(Flatcar, NothingIsWrittenForASlotThatHasProvedItself) {
  MemoryDisk disk(make_flatcar_disk({}));
  disk.power = 0;
  ASSERT_TRUE(take_flatcar_try(disk, disk, *inspect_flatcar(disk, std::nullopt)));
}

TEST(Flatcar, WhatIsMissingIsNamed) {
  EXPECT_EQ(refusal(Bytes(1 << 20)), "no GPT");
  EXPECT_EQ(refusal(make_flatcar_disk({.kernel_a = ""})), "no /flatcar/vmlinuz-a on the EFI partition");
  constexpr Guid kEfi = Guid::of("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
  constexpr Guid kUsr = Guid::of("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6");
  EXPECT_EQ(refusal(make_gpt_disk({.partitions = {{.number = 1, .type = kUsr}}})), "no EFI partition");
  EXPECT_EQ(refusal(make_gpt_disk({.partitions = {{.number = 1, .type = kEfi}}})),
            "no /usr partition of Flatcar's type");
  EXPECT_EQ(
      refusal(make_gpt_disk({.partitions = {{.number = 1, .type = kEfi}, {.number = 3, .type = kUsr}}})),
      "the EFI partition cannot be read: no FAT file system");
}

TEST(Flatcar, OtherDisksAreOfAnotherKind) {
  const Bytes disk = make_gpt_disk(
      {.partitions = {{.number = 1, .type = Guid::of("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")}}});
  const auto boot = inspect_flatcar(MemoryDisk(disk), std::span<const std::byte>());
  ASSERT_FALSE(boot);
  EXPECT_FALSE(boot.error().is_flatcar);
  const auto broken = inspect_flatcar(MemoryDisk(make_flatcar_disk({.a = {}})), std::nullopt);
  ASSERT_FALSE(broken);
  EXPECT_TRUE(broken.error().is_flatcar);
}

}  // namespace
}  // namespace minivmm
