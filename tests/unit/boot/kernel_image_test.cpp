#include "boot/kernel_image.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "boot/identify.h"
#include "tests/temp_folder.h"
#include "tests/unit/boot/kernel_builder.h"

namespace minivmm {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class Folder {
 public:
  std::filesystem::path write(const std::string& name, const Bytes& bytes) const {
    std::ofstream(path() / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path() / name;
  }
  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  test::TempFolder folder_;
};

std::string open_error(const std::filesystem::path& path) {
  return error_of([&] { KernelImage{path}; });
}

Bytes with(size_t offset, std::string_view text, size_t size = 0x20000) {
  Bytes file(size, std::byte{0x01});
  std::ranges::transform(text, file.begin() + static_cast<std::ptrdiff_t>(offset),
                         [](char c) { return static_cast<std::byte>(c); });
  return file;
}

TEST(KernelImage, LoadsAFileTwice) {
  const Folder folder;
  const KernelImage kernel(folder.write("bzImage", make_bzimage()));
  auto memory = GuestMemory::anonymous({{Gpa{0}, 64 << 20}});
  BootConfig config;
  config.cmdline = "nokaslr";
  EXPECT_EQ(kernel.load(memory, config).rip, kernel.load(memory, config).rip);
}

TEST(KernelImage, RefusesAFileThatHasBecomeShorterSinceItWasOpened) {
  const Folder folder;
  const auto path = folder.write("short", make_bzimage());
  const KernelImage image(path);
  std::filesystem::resize_file(path, 512);
  auto memory = GuestMemory::anonymous({{Gpa{0}, uint64_t{64} << 20}});
  EXPECT_NE(error_of([&] { image.load(memory, {}); }).find("shorter"), std::string::npos);
}

TEST(KernelImage, NamesThePathAndTheReasonInErrors) {
  const Folder folder;
  EXPECT_NE(open_error(folder.path() / "none").find("No such file"), std::string::npos);
  EXPECT_NE(open_error(folder.path()).find("it is a directory"), std::string::npos);
  EXPECT_NE(open_error("/dev/null").find("a character device"), std::string::npos);
  EXPECT_NE(open_error(folder.write("empty", {})).find("it is empty"), std::string::npos);
  const std::string error = open_error(folder.write("disk", with(0, "QFI\xfb")));
  EXPECT_NE(error.find("disk': it is no kernel image but a qcow2 disk image"), std::string::npos) << error;
  EXPECT_EQ(error.find('\n'), std::string::npos);
}

TEST(KernelImage, SaysWhatIsWrongWithABzImage) {
  Bytes file = make_bzimage();
  file.resize(file.size() - 100);
  const std::string error = error_of([&] { KernelImage(file, "kernel"); });
  EXPECT_NE(error.find("cannot boot 'kernel'"), std::string::npos) << error;
}

TEST(DescribeFile, KnowsWhatPeopleTakeForKernels) {
  using namespace std::string_view_literals;
  const std::vector<std::pair<std::string_view, Bytes>> cases{
      {"arm64", with(0x38, "ARM\x64")},
      {"gzip", with(0, "\x1f\x8b")},
      {"xz", with(0, "\xfd\x37zXZ\0"sv)},
      {"zstd", with(0, "\x28\xb5\x2f\xfd")},
      {"qcow2", with(0, "QFI\xfb")},
      {"VMDK", with(0, "KDMV")},
      {"cpio", with(0, "070701")},
      {"Debian package", with(0, "!<arch>\n")},
      {"ISO 9660", with(0x8001, "CD001")},
      {"GPT", with(0x200, "EFI PART")},
      {"ext2/3/4", with(0x438, "\x53\xef")},
      {"raw disk image", with(0x1fe, "\x55\xaa")},
      {"unified kernel image", with(0, "MZ\0\0\0\0\0\0\0\0.linux\0\0"sv)},
      {"EFI or Windows", with(0, "MZ")},
      {"script", with(0, "#!/bin/sh\n")},
      {"text", Bytes(100, std::byte{'a'})},
      {"zeros", Bytes(100)},
      {"empty", {}},
      {"unknown", Bytes(100, std::byte{0x03})},
  };
  for (const auto& [word, file] : cases)
    EXPECT_NE(describe_file(file).find(word), std::string_view::npos) << word << ": " << describe_file(file);
}

}  // namespace
}  // namespace minivmm
