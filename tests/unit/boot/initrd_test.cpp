#include "boot/initrd.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/temp_folder.h"
#include "tests/unit/boot/kernel_builder.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class InitrdFile : public ::testing::Test {
 protected:
  void SetUp() override { write(std::string(10000, 'i')); }
  void write(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }

  test::TempFolder folder_;
  std::filesystem::path path_ = folder_.path() / "initrd.img";
};

TEST_F(InitrdFile, IsReadIntoGuestMemory) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, 1 << 20}});
  memory.start_dirty_tracking();
  const Initrd initrd(path_);
  EXPECT_EQ(initrd.size(), 10000U);
  initrd.copy_to(memory, Gpa{0x4000});
  EXPECT_EQ(*memory.load<char>(Gpa{0x4000}), 'i');
  EXPECT_EQ(*memory.load<char>(Gpa{0x4000 + 9999}), 'i');
  EXPECT_EQ(*memory.load<char>(Gpa{0x4000 + 10000}), '\0');
  unsigned dirty = 0;
  memory.take_dirty([&](Gpa) { ++dirty; });
  EXPECT_EQ(dirty, 3U);
}

TEST_F(InitrdFile, IsReadAcrossTwoRegions) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, 0x2000}, {Gpa{0x2000}, 0x4000}});
  Initrd(path_).copy_to(memory, Gpa{0x1000});
  EXPECT_EQ(*memory.load<uint16_t>(Gpa{0x1fff}), 0x6969);
  EXPECT_EQ(*memory.load<char>(Gpa{0x1000 + 9999}), 'i');
}

TEST_F(InitrdFile, ThatShrankSinceItWasOpenedIsAnError) {
  const Initrd initrd(path_);
  write("short");
  auto memory = GuestMemory::anonymous({{Gpa{0}, 1 << 20}});
  const std::string error = error_of([&] { initrd.copy_to(memory, Gpa{0}); });
  EXPECT_NE(error.find("ends at byte 5, it had 10000"), std::string::npos) << error;
}

TEST_F(InitrdFile, OutsideGuestMemoryIsAnErrorNotACrash) {
  auto memory = GuestMemory::anonymous({{Gpa{0}, 8192}});
  EXPECT_NE(error_of([&] { Initrd(path_).copy_to(memory, Gpa{0}); }), "");
  EXPECT_NE(error_of([&] { Initrd(Bytes(9000)).copy_to(memory, Gpa{0}); }), "");
}

TEST_F(InitrdFile, ThatCannotBeReadIsNamed) {
  EXPECT_NE(
      error_of([] { Initrd(std::filesystem::path("/nonexistent/initrd")); }).find("'/nonexistent/initrd'"),
      std::string::npos);
  EXPECT_NE(error_of([] { Initrd(std::filesystem::path("/")); }).find("a directory"), std::string::npos);
}

}  // namespace
}  // namespace minivmm
