// File systems and partition tables made by the tools that make Flatcar's image; tools/deps brings them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include "boot/disk/open_any.h"
#include "boot/flatcar.h"
#include "tests/temp_folder.h"
#include "tests/unit/boot/disk/memory_disk.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class RealImages : public ::testing::Test {
 protected:
  // In the test's folder; the tools may be where only root's PATH leads.
  void run(const std::string& command) {
    const std::string line = "cd '" + folder_.path().string() + "' && PATH=$PATH:/usr/sbin:/sbin && { " +
                             command + "; } >log 2>&1";
    ASSERT_EQ(std::system(line.c_str()), 0) << command << "\n"
                                            << text("log") << "\n(tools/deps build installs what is missing)";
  }
  std::string text(const std::string& name) {
    std::ostringstream out;
    out << std::ifstream(folder_.path() / name, std::ios::binary).rdbuf();
    return out.str();
  }
  MemoryDisk disk(const std::string& name) {
    const std::string bytes = text(name);
    const auto all = std::as_bytes(std::span(bytes));
    return MemoryDisk({all.begin(), all.end()});
  }
  void write(const std::string& name, const std::string& contents) {
    std::ofstream(folder_.path() / name, std::ios::binary) << contents;
  }
  // A folder of small, large, sparse and well compressible files.
  void make_tree() {
    run("mkdir -p tree/folder && printf 'set oem_id=\"qemu\"\\n' >tree/grub.cfg && "
        "seq 100000 >tree/folder/large && "
        "for i in $(seq 400); do echo $i >\"tree/folder/a name to fill the folder with, number $i\"; done && "
        "truncate -s 300000 tree/sparse && echo end >>tree/sparse && ln -s grub.cfg tree/link && "
        "printf '%2000s' x >tree/blanks");
  }
  void expect_tree(const std::string& image) {
    const MemoryDisk bytes = disk(image);
    const auto opened = open_file_system(bytes);
    ASSERT_TRUE(opened) << opened.error();
    const FileReader& files = **opened;
    const auto read = [&files](const char* path, uint64_t most = 1 << 20) {
      const auto got = files.read_file(path, most);
      return got ? std::string(reinterpret_cast<const char*>(got->data()), got->size())
                 : std::string(got.error().what);
    };
    EXPECT_EQ(read("grub.cfg"), "set oem_id=\"qemu\"\n");
    EXPECT_EQ(read("/folder/a name to fill the folder with, number 399"), "399\n");
    EXPECT_TRUE(read("folder/large") == text("tree/folder/large"));
    EXPECT_TRUE(read("folder/large", 70000) == text("tree/folder/large").substr(0, 70000));
    EXPECT_TRUE(read("sparse") == text("tree/sparse"));
    EXPECT_TRUE(read("blanks") == text("tree/blanks"));
    EXPECT_EQ(files.file_size("folder/large").value(), 588895U);
    for (const char* none : {"nothing", "folder", "grub.cfg/x", "folder/nothing", ""})
      EXPECT_EQ(files.file_size(none).error().code, Errc::out_of_range) << none;
  }

  test::TempFolder folder_;
};

class RealExt : public RealImages, public ::testing::WithParamInterface<const char*> {};

TEST_P(RealExt, FilesAreReadWhole) {
  make_tree();
  run(std::string("truncate -s 16M image && mke2fs -q -F ") + GetParam() + " -d tree image");
  expect_tree("image");
}

INSTANTIATE_TEST_SUITE_P(Kinds, RealExt,
                         ::testing::Values("-t ext2 -b 1024", "-t ext3 -b 4096", "-t ext4",
                                           "-t ext4 -b 4096 -O ^64bit", "-t ext4 -b 1024 -I 128"));

class RealBtrfs : public RealImages, public ::testing::WithParamInterface<const char*> {};

TEST_P(RealBtrfs, FilesAreReadWhole) {
  make_tree();
  run(std::string("truncate -s 128M image && mkfs.btrfs -q ") + GetParam() + " --rootdir tree image");
  expect_tree("image");
}

// The first are the options that Flatcar's OEM partition is made with (disk_util, FormatBtrfs).
INSTANTIATE_TEST_SUITE_P(Kinds, RealBtrfs,
                         ::testing::Values("--mixed -m single -d single", "", "-m dup -d single -n 65536"));

TEST_F(RealImages, FatVolumesAreReadWhole) {
  for (const char* options : {"-F 12", "-F 16", "-F 32", "-F 32 -f 1 -R 99"}) {
    run(std::string("rm -f image && truncate -s 40M image && mkfs.vfat ") + options +
        " image && seq 100000 >large && mmd -i image ::/flatcar ::/EFI ::/EFI/boot && "
        "mcopy -i image large ::/flatcar/vmlinuz-a && mcopy -i image log ::/flatcar/first_boot");
    const MemoryDisk bytes = disk("image");
    const auto opened = open_file_system(bytes);
    ASSERT_TRUE(opened) << options << opened.error();
    const auto got = (*opened)->read_file("flatcar/vmlinuz-a", 1 << 20);
    ASSERT_TRUE(got) << options << got.error().what;
    const std::string large = text("large");
    EXPECT_TRUE(std::ranges::equal(*got, std::as_bytes(std::span(large)))) << options;
    EXPECT_TRUE((*opened)->file_size("flatcar/first_boot"));
    EXPECT_FALSE((*opened)->file_size("flatcar/first-boot"));
  }
}

class DamagedImages : public RealImages, public ::testing::WithParamInterface<const char*> {};

// Bytes are changed where the file system keeps its own, which lie within the first MiB of these.
TEST_P(DamagedImages, AreReadWithoutHarm) {
  run("mkdir tree && seq 5000 >tree/grub.cfg");
  run(GetParam());
  MemoryDisk bytes = disk("image");
  std::vector<size_t> used;
  for (size_t i = 0; i < std::min<size_t>(bytes.bytes.size(), 1 << 20); ++i) {
    if (bytes.bytes[i] != std::byte{0}) used.push_back(i);
  }
  std::mt19937 random(1);  // NOLINT(cert-msc32-c,cert-msc51-cpp): the same damage each time
  unsigned refused = 0;
  for (int round = 0; round < 1500; ++round) {
    std::vector<std::pair<size_t, std::byte>> before;
    for (int change = 0; change < 3; ++change) {
      const size_t at = used[random() % used.size()];
      before.emplace_back(at, bytes.bytes[at]);
      bytes.bytes[at] = static_cast<std::byte>(random());
    }
    const auto opened = open_file_system(bytes);
    const auto got = opened ? (*opened)->read_file("grub.cfg", 1 << 16)
                            : Result<std::vector<std::byte>>(fail(Errc::corrupt, "not opened"));
    if (got) {
      EXPECT_LE(got->size(), 1U << 16);
    } else {
      ++refused;
    }
    for (size_t i = before.size(); i-- > 0;) bytes.bytes[before[i].first] = before[i].second;
  }
  EXPECT_GT(refused, 0U);
  EXPECT_LT(refused, 1500U);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, DamagedImages,
    ::testing::Values(
        "truncate -s 512K image && mke2fs -q -F -t ext2 -b 1024 -N 32 -d tree image",
        "truncate -s 4M image && mke2fs -q -F -t ext4 -b 4096 -N 64 -d tree image",
        "truncate -s 128M image && mkfs.btrfs -q --mixed -m single -d single --rootdir tree image",
        "truncate -s 1M image && mkfs.vfat -F 12 image && mcopy -i image tree/grub.cfg ::/"));

// With Flatcar's numbers, names, types and UUIDs (disk_layout.json), and cgpt's attributes -S1 -P1 on USR-A.
TEST_F(RealImages, ADiskInFlatcarsLayoutIsUnderstood) {
  std::string kernel(30000, 'k');
  kernel.replace(0x40, 64, std::string(64, '0'));
  write("vmlinuz", kernel);
  write("grub.cfg", "set oem_id=\"qemu\"\nset linux_append=\"$linux_append flatcar.autologin\"\n");
  run("truncate -s 220M disk && sgdisk -o -U 00000000-0000-0000-0000-000000000001 "
      "-n 1:2M:+40M -t 1:C12A7328-F81F-11D2-BA4B-00A0C93EC93B -c 1:EFI-SYSTEM "
      "-n 2:0:+2M -t 2:21686148-6449-6E6F-744E-656564454649 -c 2:BIOS-BOOT "
      "-n 3:0:+2M -t 3:5DFBF5F4-2848-4BAC-AA5E-0D9A20B745A6 -c 3:USR-A "
      "-u 3:7130c94a-213a-4e5a-8e26-6cce9662f132 -A 3:set:48 -A 3:set:56 "
      "-n 4:0:+2M -t 4:5DFBF5F4-2848-4BAC-AA5E-0D9A20B745A6 -c 4:USR-B "
      "-u 4:e03dd35c-7c2d-4a47-b3fe-27f15780a57c "
      "-n 6:0:+128M -t 6:0FC63DAF-8483-4772-8E79-3D69D8477DE4 -c 6:OEM "
      "-n 7:0:+2M -t 7:C95DC21A-DF0E-4340-8D7B-26CBFA9A03E0 -c 7:OEM-CONFIG "
      "-n 9:0:+8M -t 9:3884DD41-8582-4404-B9A8-E9B84F2DF50E -c 9:ROOT disk");
  run("truncate -s 40M efi && mkfs.vfat -F 32 -n EFI-SYSTEM efi && mmd -i efi ::/flatcar && "
      "mcopy -i efi vmlinuz ::/flatcar/vmlinuz-a && mcopy -i efi log ::/flatcar/first_boot && "
      "mkdir oem && mv grub.cfg oem && truncate -s 128M oem.img && "
      "mkfs.btrfs -q --mixed -m single -d single -L OEM --rootdir oem oem.img && "
      "dd if=efi of=disk bs=1M seek=2 conv=notrunc && dd if=oem.img of=disk bs=1M seek=48 conv=notrunc");
  MemoryDisk bytes = disk("disk");
  const auto boot = inspect_flatcar(bytes, std::nullopt);
  ASSERT_TRUE(boot) << boot.error().reason;
  EXPECT_EQ(boot->cmdline,
            "BOOT_IMAGE=/flatcar/vmlinuz-a mount.usr=/dev/mapper/usr "
            "verity.usr=PARTUUID=7130c94a-213a-4e5a-8e26-6cce9662f132 rootflags=rw mount.usrflags=ro "
            "consoleblank=0 root=LABEL=ROOT console=ttyS0,115200n8 flatcar.first_boot=detected "
            "flatcar.randomize_disk_guid=00000000-0000-0000-0000-000000000001 flatcar.oem.id=qemu "
            "flatcar.autologin verity.usrhash=" +
                std::string(64, '0'));
  EXPECT_THAT(boot->warnings, IsEmpty());

  // What is written is a table that sgdisk finds whole.
  auto gpt = Gpt::read(bytes);
  ASSERT_TRUE(gpt->write_attributes(bytes, 4, uint64_t{2} << 48 | uint64_t{3} << 52));
  write("disk", {reinterpret_cast<const char*>(bytes.bytes.data()), bytes.bytes.size()});
  run("sgdisk -v disk && sgdisk -i 4 disk");
  EXPECT_THAT(text("log"), HasSubstr("No problems found"));
  EXPECT_THAT(text("log"), HasSubstr("Attribute flags: 0032000000000000"));
}

}  // namespace
}  // namespace minivmm
