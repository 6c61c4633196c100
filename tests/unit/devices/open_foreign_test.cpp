// Disks of other systems and of servers, opened as the user names them.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "devices/block/open_disk.h"
#include "devices/block/qcow2/create.h"
#include "tests/unit/devices/nbd_fixture.h"

namespace minivmm::test {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class OpenForeign : public NbdTest {
 protected:
  void SetUp() override {
    if (!NbdkitServer::installed() || find_program("qemu-img").empty()) {
      GTEST_SKIP() << "needs nbdkit and qemu-img (Debian's nbdkit, qemu-utils)";
    }
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string make(const std::string& name, const std::string& format) const {
    std::ofstream(path("raw"), std::ios::binary) << std::string(kMiB, 'a');
    const std::string command =
        "qemu-img convert -q -f raw -O " + format + " " + path("raw") + " " + path(name);
    EXPECT_EQ(::system(command.c_str()), 0) << command;
    return path(name);
  }
  OpenedDisk open(const std::string& spec) { return open_disk(*engine_, parse_disk_spec(spec)); }
  std::string error(const std::string& spec) {
    return error_of([&] { open(spec); });
  }
  void close(OpenedDisk& disk) { EXPECT_TRUE(disk.close(*engine_)); }

  TempFolder folder_;
};

TEST_F(OpenForeign, TheFormatIsFoundByTheFirstBytes) {
  for (const std::string format : {"vmdk", "vdi", "vhdx"}) {
    OpenedDisk disk = open(make("image", format));
    EXPECT_EQ(disk.describe(), format);
    EXPECT_TRUE(disk.backend->read_only());
    EXPECT_EQ(disk.chain.at(0).capacity, kMiB);
    ASSERT_EQ(disk.warnings.size(), 1);
    EXPECT_NE(disk.warnings.front().find("overlay="), std::string::npos);
    EXPECT_EQ(read(*disk.backend, 0, 512).value(), std::string(512, 'a'));
    close(disk);
    EXPECT_TRUE(open(path("image") + ",readonly=on").warnings.empty());
    expect_one_line(error(path("raw") + ",format=" + format), "cannot use the " + format + " image");
  }
}

TEST_F(OpenForeign, SeveralMachinesShareOneImage) {
  const std::string image = make("a.vdi", "vdi");
  OpenedDisk one = open(image);
  OpenedDisk two = open(image);
  EXPECT_TRUE(read(*two.backend, 0, 512));
}

TEST_F(OpenForeign, AnOverlayTakesTheWrites) {
  const std::string image = make("a.vmdk", "vmdk");
  for (const char* how : {",overlay=temp", ",overlay="}) {
    const std::string spec = image + how + (std::string(how).ends_with('=') ? path("overlay") : "");
    OpenedDisk disk = open(spec);
    EXPECT_EQ(disk.describe(), "qcow2 on vmdk");
    ASSERT_TRUE(write(*disk.backend, 512, std::string(512, 'b')));
    EXPECT_EQ(read(*disk.backend, 0, 1536).value(),
              std::string(512, 'a') + std::string(512, 'b') + std::string(512, 'a'));
    close(disk);
  }
  OpenedDisk again = open(image + ",overlay=" + path("overlay"));
  EXPECT_EQ(read(*again.backend, 512, 512).value(), std::string(512, 'b'));
  close(again);
  const std::string compare = "qemu-img convert -q -O raw " + path("overlay") + " " + path("flat");
  ASSERT_EQ(::system(compare.c_str()), 0) << "QEMU reads the pair too";
  std::ifstream flat(path("flat"), std::ios::binary);
  std::string bytes(1024, '?');
  flat.read(bytes.data(), 1024);
  EXPECT_EQ(bytes, std::string(512, 'a') + std::string(512, 'b'));
}

TEST_F(OpenForeign, AServersExportIsADisk) {
  const NbdkitServer server({"memory", "1M"});
  OpenedDisk disk = open(server.uri() + ",reconnect-delay=0");
  EXPECT_EQ(disk.describe(), "nbd+unix");
  EXPECT_TRUE(disk.warnings.empty());
  EXPECT_TRUE(write(*disk.backend, 0, std::string(512, 'b')));
  close(disk);
  OpenedDisk later = open(server.uri() + ",readonly=on,format=raw");
  EXPECT_TRUE(later.backend->read_only());
  EXPECT_EQ(read(*later.backend, 0, 512).value(), std::string(512, 'b'));
  close(later);
}

// Item 14, over the network: the server's bytes are the guest's, and nobody looks for a format in them.
TEST_F(OpenForeign, AnExportThatLooksLikeAnImageIsRaw) {
  const std::string image = make("inner", "qcow2");
  const NbdkitServer server({"file", image});
  OpenedDisk disk = open(server.uri());
  EXPECT_EQ(read(*disk.backend, 0, 4).value_or(""), "QFI\xfb");
  EXPECT_TRUE(write(*disk.backend, 0, std::string(512, 'b')));
  close(disk);
  expect_one_line(error(server.uri() + ",format=qcow2"), "taken as it is");
}

TEST_F(OpenForeign, AnOverlayOverAServerIsFoundAgain) {
  const NbdkitServer server({"--readonly", "data", "data=97*65536", "size=1M"});
  for (int round = 0; round < 2; ++round) {
    OpenedDisk disk = open(server.uri() + ",overlay=" + path("overlay"));
    EXPECT_EQ(disk.describe(), "qcow2 on nbd+unix");
    EXPECT_EQ(read(*disk.backend, 0, 512).value(), std::string(512, round == 0 ? 'a' : 'b'));
    ASSERT_TRUE(write(*disk.backend, 0, std::string(512, 'b')));
    close(disk);
  }
  const OpenedDisk seen =
      inspect_disk(*engine_, parse_disk_spec(server.uri() + ",overlay=" + path("overlay")));
  EXPECT_EQ(seen.describe(), "qcow2 on nbd+unix");
  expect_one_line(error("nbd+unix:///other?socket=/x,overlay=" + path("overlay")),
                  "it is there already, over");
  OpenedDisk temporary = open(server.uri() + ",overlay=temp");
  EXPECT_EQ(temporary.describe(), "qcow2 on nbd+unix");
  EXPECT_TRUE(write(*temporary.backend, 0, std::string(512, 'c')));
  close(temporary);
}

TEST_F(OpenForeign, AServerNamedByAnImageIsOpenedOnlyWhereThatIsTrusted) {
  const NbdkitServer server({"data", "data=97*65536", "size=1M"});
  qcow2::CreateOptions options;
  options.size = kMiB;
  options.backing_file = server.uri();
  options.backing_format = "raw";
  qcow2::create_image(*engine_, path("a.qcow2"), options);
  expect_one_line(error(path("a.qcow2")), "backing=trusted");
  OpenedDisk disk = open(path("a.qcow2") + ",backing=trusted");
  EXPECT_EQ(read(*disk.backend, 0, 512).value(), std::string(512, 'a'));
  close(disk);
}

TEST_F(OpenForeign, ADelayThatIsNoneIsRefused) {
  expect_one_line(error("a,reconnect-delay=1e9"), "whole number");
  expect_one_line(error("a,reconnect-delay=86401"), "86400");
}

}  // namespace
}  // namespace minivmm::test
