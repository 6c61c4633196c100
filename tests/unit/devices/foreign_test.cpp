#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <random>

#include "devices/block/foreign/foreign_image.h"
#include "devices/block/foreign/vmdk_header.h"
#include "tests/unit/devices/nbd_fixture.h"

namespace minivmm::test {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMiB = uint64_t{1} << 20;

class Foreign : public NbdTest {
 protected:
  void SetUp() override {
    ASSERT_FALSE(find_program("qemu-img").empty()) << "qemu-img is not there; tools/deps build installs it";
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  // An image by qemu-img, of these bytes.
  std::string make(const std::string& name, const std::string& bytes, const std::string& format,
                   const std::string& options = "") const {
    std::ofstream(path("raw"), std::ios::binary) << bytes;
    std::string command = "qemu-img convert -q -f raw -O " + format;
    if (!options.empty()) command += " -o " + options;
    command += " " + path("raw") + " " + path(name);
    EXPECT_EQ(::system(command.c_str()), 0) << command;
    return path(name);
  }
  std::unique_ptr<ForeignImage> open(const std::string& image, std::string_view format) {
    return ForeignImage::open(*engine_, BlockFile::open(image, {.read_only = true}), format);
  }
  std::string error(const std::string& image, std::string_view format) {
    return error_of([&] { open(image, format); });
  }
  static void patch(const std::string& file, uint64_t offset, const std::string& bytes) {
    std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
    out.seekp(static_cast<std::streamoff>(offset));
    out << bytes;
  }

  TempFolder folder_;
};

// Data, a hole, data that cannot be compressed.
std::string some_bytes() {
  std::string bytes(4 * kMiB, '\0');
  std::minstd_rand random(7);
  for (size_t i = 0; i < kMiB; ++i) bytes[i] = static_cast<char>(random());
  for (size_t i = 3 * kMiB; i < bytes.size(); ++i) bytes[i] = static_cast<char>(random() % 3);
  return bytes;
}

TEST_F(Foreign, ImagesOfOtherSystemsReadAsQemuImgWroteThem) {
  struct Kind {
    const char* format;
    const char* options;
  };
  const std::string bytes = some_bytes();
  for (const Kind kind :
       {Kind{"vmdk", "subformat=monolithicSparse"}, Kind{"vmdk", "subformat=streamOptimized"},
        Kind{"vdi", ""}, Kind{"vdi", "static=on"}, Kind{"vhdx", ""}, Kind{"vhdx", "subformat=fixed"}}) {
    SCOPED_TRACE(std::string(kind.format) + " " + kind.options);
    const auto disk = open(make("image", bytes, kind.format, kind.options), kind.format);
    EXPECT_EQ(disk->format(), kind.format);
    EXPECT_TRUE(disk->read_only());
    ASSERT_EQ(disk->capacity(), bytes.size());
    EXPECT_TRUE(read(*disk, 0, bytes.size()).value() == bytes);
    EXPECT_EQ(read(*disk, 512, 1024).value(), bytes.substr(512, 1024));
    EXPECT_EQ(write(*disk, 0, std::string(512, 'a')).error().code, Errc::unsupported);
    EXPECT_EQ(extent(*disk, 0, kMiB).value().state, BlockExtent::State::data);
    EXPECT_EQ(engine_->run(disk->resize(*engine_, kMiB)).error().code, Errc::unsupported);
    EXPECT_TRUE(engine_->run(disk->close(*engine_)));
  }
}

TEST_F(Foreign, WhatIsNotStoredIsKnownToBeZero) {
  const auto disk = open(make("a.vmdk", some_bytes(), "vmdk"), "vmdk");
  const auto hole = extent(*disk, kMiB, kMiB).value();
  EXPECT_EQ(hole.state, BlockExtent::State::zero);
  EXPECT_EQ(hole.length, kMiB);
}

// What a guest writes is no image of its own, whatever it looks like.
TEST_F(Foreign, ContentsThatLookLikeAnotherImageStayContents) {
  using namespace std::string_literals;
  const std::string inner = make("inner.qcow2", some_bytes(), "qcow2");
  std::ifstream file(inner, std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(file), {});
  bytes.resize(8 * kMiB);
  const auto disk = open(make("a.vmdk", bytes, "vmdk"), "vmdk");
  EXPECT_EQ(disk->capacity(), bytes.size());
  EXPECT_EQ(read(*disk, 0, 4).value_or(""), "QFI\xfb");
  EXPECT_TRUE(read(*disk, 0, bytes.size()).value() == bytes);
}

TEST_F(Foreign, AVmdkThatNeedsOtherFilesIsRefused) {
  const std::string bytes = some_bytes();
  expect_one_line(error(make("flat.vmdk", bytes, "vmdk", "subformat=monolithicFlat"), "vmdk"),
                  "several files");
  make("split.vmdk", bytes, "vmdk", "subformat=twoGbMaxExtentSparse");
  expect_one_line(error(path("split-s001.vmdk"), "vmdk"), "one file of an image in several");

  // Else: "backing file", and with qemu-nbd's own rules any file of the host.
  make("parent.vmdk", bytes, "vmdk");
  const std::string command =
      "cd " + folder_.path().string() + " && qemu-img create -q -f vmdk -F vmdk -b parent.vmdk child.vmdk";
  ASSERT_EQ(::system(command.c_str()), 0);
  expect_one_line(error(path("child.vmdk"), "vmdk"), "snapshot");

  // No capacity: then its descriptor says which files it consists of.
  const std::string evil = make("evil.vmdk", bytes, "vmdk");
  patch(evil, 12, std::string(8, '\0'));
  patch(evil, 512,
        "# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n"
        "RW 2 FLAT \"/etc/passwd\" 0\n");
  expect_one_line(error(evil, "vmdk"), "no size");
}

TEST(VmdkHeader, EveryHeaderIsTakenApartSafely) {
  std::array<std::byte, 2048> image{};
  std::minstd_rand random(1);
  const ImageReader read = [&](uint64_t offset, std::span<std::byte> out) -> Result<void> {
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = offset + i < image.size() ? image.at(offset + i) : std::byte{0};
    return {};
  };
  const std::string_view magic = "KDMV";
  for (int round = 0; round < 2000; ++round) {
    for (std::byte& byte : image) byte = static_cast<std::byte>(random());
    for (size_t i = 0; i < magic.size(); ++i) image.at(i) = static_cast<std::byte>(magic[i]);
    if (round % 2 == 0) {  // a descriptor at sector 1
      for (size_t i = 28; i < 44; ++i) image.at(i) = static_cast<std::byte>(i == 28 || i == 36 ? 1 : 0);
    }
    EXPECT_NE(check_vmdk(read, image.size()), "");
  }
}

TEST_F(Foreign, ABrokenImageIsToldInQemuNbdsWords) {
  const std::string image = make("a.vdi", some_bytes(), "vdi");
  patch(image, 0x44, std::string(4, '\x7f'));  // its version
  expect_one_line(error(image, "vdi"), "unsupported VDI image");
  const std::string cut = make("a.vhdx", some_bytes(), "vhdx");
  fs::resize_file(cut, 70'000);
  expect_one_line(error(cut, "vhdx"), "cannot use the vhdx image " + cut);
}

TEST_F(Foreign, AKilledHelperEndsRequestsWithAnError) {
  const std::string image = make("a.vdi", some_bytes(), "vdi");
  QemuNbd server(BlockFile::open(image, {.read_only = true})->fd(), "vdi", "image");
  const auto disk = NbdDisk::connect(server.take_socket(), "image", {.read_only = true});
  ::kill(server.pid(), SIGKILL);
  EXPECT_EQ(read(*disk, 0, 512).error().code, Errc::io);
}

TEST_F(Foreign, NoChildIsLeftBehind) {
  const std::string image = make("a.vdi", some_bytes(), "vdi");
  open(image, "vdi").reset();
  error(make("b.vdi", std::string(512, 'a'), "raw"), "vdi");
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a zombie, or a helper that still runs";
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(Foreign, NamesWithEveryCharacterAreNames) {
  const std::string image = make("a.vdi", some_bytes(), "vdi");
  for (const char* name : {"nbd:unix:x", "json:{}", "a,b=c \"'{}\n.vdi", "-x"}) {
    fs::rename(image, path(name));
    EXPECT_EQ(open(path(name), "vdi")->capacity(), 4 * kMiB);
    fs::rename(path(name), image);
  }
}

TEST_F(Foreign, AMissingQemuNbdIsNamedWithItsPackage) {
  const std::string image = make("a.vdi", some_bytes(), "vdi");
  const char* const path_now = ::getenv("PATH");
  const std::string before = path_now == nullptr ? "" : path_now;
  ::setenv("PATH", folder_.path().c_str(), 1);
  const std::string what = error(image, "vdi");
  ::setenv("PATH", before.c_str(), 1);
  expect_one_line(what, "qemu-utils");
}

TEST(ChildProcess, DiesWithTheProgramThatStartedIt) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const pid_t program = ::fork();
  if (program == 0) {
    const ChildProcess child({.command = {find_program("sleep"), "1000"}});
    const int pid = child.pid();
    ::_exit(::write(ends[1], &pid, sizeof pid) == sizeof pid ? 0 : 1);  // as if it were killed
  }
  const UniqueFd writing(ends[1]);
  const UniqueFd reading(ends[0]);
  int pid = -1;
  ASSERT_EQ(::read(reading.get(), &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
  ASSERT_EQ(::waitpid(program, nullptr, 0), program);
  const UniqueFd child(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!child) {
    EXPECT_EQ(errno, ESRCH) << "gone already";
    return;
  }
  pollfd ended{child.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&ended, 1, 30'000), 1);
}

TEST(ChildProcess, IsKilledIfItDoesNotEnd) {
  int pid = -1;
  {
    const ChildProcess child({.command = {find_program("sleep"), "1000"}});
    pid = child.pid();
  }
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST(ChildProcess, GetsNoDescriptorsButTheNamedOnes) {
  const EventFd named;
  const UniqueFd inherited(
      ::open("/dev/null", O_RDONLY));  // NOLINT(android-cloexec-open): as an embedder's may be
  ChildProcess child(
      {.command = {"/bin/sh", "-c", "echo $(ls /proc/self/fd) >&2"}, .descriptors = {named.fd()}});
  ASSERT_TRUE(child.wait_ended(std::chrono::seconds(30)));
  EXPECT_EQ(child.last_words(), "0 1 2 3 4") << "4 is ls's own";
}

TEST(ChildProcess, ThatCannotBeStartedIsAnError) {
  ChildProcess child({.command = {"/nowhere/program"}});
  ASSERT_TRUE(child.wait_ended(std::chrono::seconds(30)));
  EXPECT_NE(child.last_words().find("not found"), std::string::npos) << child.last_words();
}

}  // namespace
}  // namespace minivmm::test
