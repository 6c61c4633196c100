#include "boot/grub_settings.h"

#include <gtest/gtest.h>

namespace minivmm {
namespace {

GrubSettings read(std::string_view text) {
  GrubSettings settings;
  read_grub_settings(text, settings);
  return settings;
}

TEST(GrubSettings, QuotesAndExpansionAreGrubs) {
  const GrubSettings s = read(
      "# Flatcar GRUB settings\n"
      "\n"
      "set oem_id=\"qemu\"\n"
      "set linux_append=\"$linux_append flatcar.autologin\"\n"
      "set linux_append=\"${linux_append} quiet\"   # and more\r\n"
      "set single='$oem_id #'; set both=a\"b c\"'d'\n"
      "plain=word\n"
      "set dollar=\"cost: \\$5\"\n"
      "set long=\"first \\\n"
      "second\"\n");
  EXPECT_EQ(s.get("oem_id"), "qemu");
  EXPECT_EQ(s.get("linux_append"), " flatcar.autologin quiet");
  EXPECT_EQ(s.get("single"), "$oem_id #");
  EXPECT_EQ(s.get("both"), "ab cd");
  EXPECT_EQ(s.get("plain"), "word");
  EXPECT_EQ(s.get("dollar"), "cost: $5");
  EXPECT_EQ(s.get("long"), "first second");
  EXPECT_EQ(s.get("nothing"), "");
  EXPECT_FALSE(s.skipped);
}

TEST(GrubSettings, WhatIsSetUnderAConditionIsLeftAlone) {
  const GrubSettings s = read(
      "set console=one\n"
      "if [ \"$grub_cpu\" = arm64 ]; then\n"
      "  set console=two\n"
      "else if true; then set console=three; fi\n"
      "fi\n"
      "set after=yes\n");
  EXPECT_EQ(s.get("console"), "one");
  EXPECT_EQ(s.get("after"), "yes");
  EXPECT_TRUE(s.skipped);
}

TEST(GrubSettings, CommandsAreNotRun) {
  const GrubSettings s = read(
      "if [ \"$grub_platform\" = pc ]; then\n"
      "    serial com0 --speed=115200 --word=8 --parity=no\n"
      "fi\n"
      "source /etc/passwd\n"
      "set a b=c\n"
      "set =d\n"
      "insmod x=y\n");
  EXPECT_TRUE(s.variables.empty());
  EXPECT_FALSE(s.skipped);
}

TEST(GrubSettings, ValuesThatDoubleStayBounded) {
  std::string text = "set a=xxxxxxxxxxxxxxxx\n";
  for (int i = 0; i < 4000; ++i) text += "set a=$a$a\n";
  EXPECT_LE(read(text).get("a").size(), 4096U);
}

TEST(GrubSettings, AnUnfinishedFileEndsWhereItEnds) {
  EXPECT_EQ(read("set a=\"b").get("a"), "b");
  EXPECT_EQ(read("set a=b\\").get("a"), "b\\");
  EXPECT_EQ(read("set a=${").get("a"), "");
  EXPECT_EQ(read("set a=$").get("a"), "$");
  EXPECT_EQ(read("set").variables.size(), 0U);
  EXPECT_EQ(read("fi\n}\nset a=b").get("a"), "b");
}

}  // namespace
}  // namespace minivmm
