#include "boot/kaslr.h"

#include <gtest/gtest.h>

#include <set>

#include "boot/command_line.h"
#include "tests/unit/boot/kernel_builder.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

Bytes table(std::initializer_list<uint32_t> words) {
  Bytes out;
  for (const uint32_t word : words) put(out, out.size(), word);
  return out;
}

constexpr uint32_t kBase = 0x81000000;
constexpr uint64_t kLink = 0xffffffff81000000;

TEST(RelocationTable, TheListsAreReadFromTheEnd) {
  const Bytes words = table({0, kBase + 8, 0, kBase + 4, 0, kBase});
  const auto parsed = RelocationTable::parse(words);
  ASSERT_TRUE(parsed);
  Bytes image(16);
  ASSERT_TRUE(parsed->apply(image, kLink, 0x200000));
  EXPECT_EQ(get<uint32_t>(image, 0), 0x200000U);           // 32-bit
  EXPECT_EQ(get<uint32_t>(image, 4), 0U - 0x200000U);      // inverse
  EXPECT_EQ(get<uint64_t>(image, 8), uint64_t{0x200000});  // 64-bit
}

TEST(RelocationTable, EmptyListsAreFine) {
  EXPECT_TRUE(RelocationTable::parse(table({0, 0, 0})));
  EXPECT_TRUE(RelocationTable::parse(table({0, 0})));
}

TEST(RelocationTable, OtherShapesAreNotUnderstood) {
  EXPECT_FALSE(RelocationTable::parse({}));
  EXPECT_FALSE(RelocationTable::parse(table({0, kBase}))) << "one list";
  EXPECT_FALSE(RelocationTable::parse(table({0, 0, 0, 0}))) << "four lists";
  EXPECT_FALSE(RelocationTable::parse(table({kBase, 0, 0, 0}))) << "something before the lists";
  EXPECT_FALSE(RelocationTable::parse(Bytes(9))) << "not a whole number of words";
}

TEST(RelocationTable, PlacesOutsideTheImageAreRefused) {
  const auto applies = [](const Bytes& words) {
    Bytes image(16);
    return RelocationTable::parse(words)->apply(image, kLink, 1 << 21).has_value();
  };
  EXPECT_TRUE(applies(table({0, kBase + 8, 0, 0, kBase + 12})));
  EXPECT_FALSE(applies(table({0, 0, 0, kBase + 13}))) << "half outside";
  EXPECT_FALSE(applies(table({0, kBase + 12, 0, 0}))) << "a 64-bit place";
  EXPECT_FALSE(applies(table({0, 0, 0, kBase - 4}))) << "below";
  EXPECT_FALSE(applies(table({0, 0, 0, 0x7fffffff}))) << "a low address";
}

TEST(Kaslr, VirtualOffsetsAreAlignedAndLeaveRoomForTheKernel) {
  constexpr uint64_t kLoad = 16 << 20;
  constexpr uint64_t kSize = 900 << 20;
  std::set<uint64_t> seen;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t offset = random_virtual_offset(kLoad, kSize, 2 << 20);
    EXPECT_EQ(offset % (2 << 20), 0U);
    EXPECT_LE(kLoad + offset + kSize, kKernelImageSize);
    seen.insert(offset);
  }
  EXPECT_GT(seen.size(), 40U);  // of 55
  EXPECT_EQ(random_virtual_offset(kLoad, kKernelImageSize, 2 << 20), 0U) << "no room to move";
}

TEST(Kaslr, RandomNumbersStayBelowTheirBound) {
  EXPECT_EQ(random_below(1), 0U);
  std::set<uint64_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(random_below(3));
  EXPECT_EQ(seen, (std::set<uint64_t>{0, 1, 2}));
}

TEST(CommandLine, OptionsAreWholeWords) {
  EXPECT_TRUE(has_flag("nokaslr", "nokaslr"));
  EXPECT_TRUE(has_flag("a\tnokaslr\nb", "nokaslr"));
  EXPECT_FALSE(has_flag("xnokaslr nokaslrx nokaslr=1", "nokaslr"));
  EXPECT_FALSE(has_flag("", "nokaslr"));
  EXPECT_TRUE(has_option("quiet mem=64M", "mem"));
  EXPECT_FALSE(has_option("memory=64M mem", "mem"));
}

TEST(CommandLine, TheOneMadeUpNamesConsoleAndRoot) {
  EXPECT_EQ(default_command_line({}), "console=ttyS0 panic=-1");
  EXPECT_EQ(default_command_line({.root = "/dev/vda", .file_system = "ext4"}),
            "console=ttyS0 root=/dev/vda rw panic=-1");
  EXPECT_EQ(default_command_line({.root = "/dev/vda", .file_system = "squashfs", .read_only = true}),
            "console=ttyS0 root=/dev/vda ro panic=-1");
}

}  // namespace
}  // namespace minivmm
