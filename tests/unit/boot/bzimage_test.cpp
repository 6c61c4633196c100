#include "boot/bzimage.h"

#include <gtest/gtest.h>

#include <functional>

#include "tests/unit/boot/kernel_builder.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

std::string refusal(const Bytes& file) {
  const auto image = BzImage::parse(file);
  return image ? "" : image.error().what;
}

TEST(BzImage, ReadsAGoodHeader) {
  const Bytes file = make_bzimage();
  const auto image = BzImage::parse(file);
  ASSERT_TRUE(image) << image.error().what;
  EXPECT_EQ(image->version, "6.1.0-test (builder) #1");
  EXPECT_EQ(image->protected_mode.size(), file.size() - 2048);
  EXPECT_EQ(image->payload.size(), +header_of(file).payload_length);
}

TEST(BzImage, TakesASignatureBehindTheCode) {
  Bytes file = make_bzimage();
  const size_t size = file.size();
  file.resize(size + 1000);
  const auto image = BzImage::parse(file);
  ASSERT_TRUE(image);
  EXPECT_EQ(image->protected_mode.size(), size - 2048);
}

TEST(BzImage, NoSetupSectorsMeansFour) {
  Bytes file = make_bzimage();
  SetupHeader h = header_of(file);
  h.setup_sects = 0;
  set_header(file, h);
  file.insert(file.begin() + 2048, 512, std::byte{0});
  EXPECT_EQ(refusal(file), "");
}

struct BadField {
  const char* name;
  const char* complaint;
  std::function<void(SetupHeader&)> spoil;
};

class BzImageField : public ::testing::TestWithParam<BadField> {};

TEST_P(BzImageField, IsCheckedAndExplained) {
  Bytes file = make_bzimage();
  SetupHeader h = header_of(file);
  GetParam().spoil(h);
  set_header(file, h);
  EXPECT_NE(refusal(file).find(GetParam().complaint), std::string::npos) << refusal(file);
}

INSTANTIATE_TEST_SUITE_P(
    Each, BzImageField,
    ::testing::Values(
        BadField{"boot_flag", "0xaa55", [](SetupHeader& h) { h.boot_flag = 0; }},
        BadField{"magic", "no boot header", [](SetupHeader& h) { h.header ^= 1; }},
        BadField{"old_version", "older than 2.06", [](SetupHeader& h) { h.version = 0x205; }},
        BadField{"no_64_bit_version", "no 64-bit entry", [](SetupHeader& h) { h.version = 0x20b; }},
        BadField{"no_64_bit_flag", "no 64-bit entry", [](SetupHeader& h) { h.xloadflags = 0; }},
        BadField{"zimage", "zImage", [](SetupHeader& h) { h.loadflags = 0; }},
        BadField{"alignment_0", "kernel_alignment", [](SetupHeader& h) { h.kernel_alignment = 0; }},
        BadField{"alignment_odd", "kernel_alignment", [](SetupHeader& h) { h.kernel_alignment = 0x30000; }},
        BadField{"alignment_small", "kernel_alignment", [](SetupHeader& h) { h.kernel_alignment = 16; }},
        BadField{"alignment_huge", "kernel_alignment", [](SetupHeader& h) { h.kernel_alignment = 1U << 31; }},
        BadField{"init_size_0", "init_size", [](SetupHeader& h) { h.init_size = 0; }},
        BadField{"init_size_huge", "init_size", [](SetupHeader& h) { h.init_size = ~0U; }},
        BadField{"init_size_below_code", "init_size", [](SetupHeader& h) { h.init_size = 1024; }},
        BadField{"pref_address_low", "pref_address", [](SetupHeader& h) { h.pref_address = 0x10000; }},
        BadField{"pref_address_high", "pref_address",
                 [](SetupHeader& h) { h.pref_address = ~uint64_t{0xffff}; }},
        BadField{"pref_address_unaligned", "pref_address", [](SetupHeader& h) { h.pref_address += 0x1000; }},
        BadField{"cmdline_size", "cmdline_size", [](SetupHeader& h) { h.cmdline_size = 0; }},
        BadField{"initrd_addr_max", "initrd_addr_max", [](SetupHeader& h) { h.initrd_addr_max = 0xfffff; }},
        BadField{"short_header", "before init_size", [](SetupHeader& h) { h.jump_distance = 0x50; }},
        BadField{"setup_past_end", "setup sectors", [](SetupHeader& h) { h.setup_sects = 255; }},
        BadField{"syssize_0", "syssize", [](SetupHeader& h) { h.syssize = 0; }},
        BadField{"syssize_past_end", "shorter than its syssize", [](SetupHeader& h) { h.syssize += 1; }},
        BadField{"syssize_huge", "shorter than its syssize", [](SetupHeader& h) { h.syssize = ~0U; }},
        BadField{"payload_offset", "payload lies outside", [](SetupHeader& h) { h.payload_offset = ~0U; }},
        BadField{"payload_length", "payload lies outside", [](SetupHeader& h) { h.payload_length = ~0U; }},
        BadField{"payload_wraps", "payload lies outside",
                 [](SetupHeader& h) {
                   h.payload_offset = 0x310;
                   h.payload_length = 0xfffffff0;
                 }}),
    [](const auto& param_info) { return param_info.param.name; });

TEST(BzImage, IsRefusedCutOffAnywhere) {
  const Bytes file = make_bzimage();
  for (size_t size = 0; size + 16 <= file.size(); size += size < 4096 ? 1 : 509) {
    const Bytes cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(BzImage::parse(cut)) << size;
  }
}

TEST(BzImage, AVersionStringPastTheSetupCodeIsNone) {
  Bytes file = make_bzimage();
  SetupHeader h = header_of(file);
  h.kernel_version = 0xffff;
  set_header(file, h);
  const auto image = BzImage::parse(file);
  ASSERT_TRUE(image);
  EXPECT_EQ(image->version, "");
}

}  // namespace
}  // namespace minivmm
