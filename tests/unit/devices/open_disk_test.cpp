#include "devices/block/open_disk.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "devices/block/disk_bytes.h"
#include "devices/block/disk_set.h"
#include "devices/block/overlay.h"
#include "devices/block/qcow2/create.h"
#include "devices/block/qcow2/image.h"
#include "tests/temp_folder.h"

namespace minivmm::test {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class OpenDisk : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  std::string make_raw(const std::string& name, char fill, uint64_t size = kMiB) const {
    std::ofstream(path(name), std::ios::binary) << std::string(size, fill);
    return path(name);
  }
  // A qcow2 image that names `backing` just so.
  std::string make_qcow2(const std::string& name, const std::string& backing = "",
                         const std::string& format = "", uint64_t size = kMiB) {
    qcow2::CreateOptions options;
    options.size = size;
    options.backing_file = backing;
    options.backing_format = backing.empty() || !format.empty() ? format : "raw";
    qcow2::create_image(*engine_, path(name), options);
    if (!backing.empty() && format.empty()) forget_format(name, backing);
    return path(name);
  }
  // Older tools did not say the backing file's format; ours do.
  void forget_format(const std::string& name, const std::string& backing) {
    OpenImageOptions options;
    options.below = nullptr;
    OpenedDisk disk = open_image(*engine_, path(name), options);
    EXPECT_TRUE(engine_->run(disk.qcow2->set_backing(*engine_, backing, "")));
    EXPECT_TRUE(disk.close(*engine_));
  }
  std::string bytes_of(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  OpenedDisk open(const std::string& spec) { return open_disk(*engine_, parse_disk_spec(spec)); }
  // What opening it throws, else "".
  std::string error(const std::string& spec) {
    try {
      open(spec);
      return "";
    } catch (const HostError& e) {
      return e.what();
    }
  }
  void expect_error(const std::string& spec, const std::string& part) {
    const std::string what = error(spec);
    EXPECT_NE(what.find(part), std::string::npos) << spec << ": " << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
  }

  Result<void> write(BlockBackend& disk, uint64_t offset, std::string bytes) {
    const iovec piece{bytes.data(), bytes.size()};
    return engine_->run(disk.run(
        *engine_,
        {.op = BlockOp::write, .offset = offset, .length = bytes.size(), .data = std::span(&piece, 1)}));
  }
  std::string read(BlockBackend& disk, uint64_t offset, size_t length) {
    std::string bytes(length, '?');
    EXPECT_TRUE(DiskBytes(disk).read(offset, std::as_writable_bytes(std::span(bytes))));
    return bytes;
  }

  TempFolder folder_;
  std::unique_ptr<IoEngine> engine_ = IoEngine::create();
};

TEST_F(OpenDisk, TheFormatIsFoundByTheFirstBytes) {
  const OpenedDisk raw = open(make_raw("a", 'a'));
  EXPECT_EQ(raw.chain.at(0).format, "raw");
  EXPECT_TRUE(raw.chain.at(0).format_guessed);
  EXPECT_EQ(raw.qcow2, nullptr);
  const OpenedDisk qcow2 = open(make_qcow2("b"));
  EXPECT_EQ(qcow2.chain.at(0).format, "qcow2");
  EXPECT_EQ(qcow2.chain.at(0).capacity, kMiB);
  EXPECT_NE(qcow2.qcow2, nullptr);
  EXPECT_EQ(qcow2.describe(), "qcow2");
}

TEST_F(OpenDisk, AFormatThatIsSaidIsNotGuessed) {
  const std::string image = make_qcow2("b");
  const OpenedDisk raw = open(image + ",format=raw");
  EXPECT_EQ(raw.backend->format(), "raw");
  EXPECT_FALSE(raw.chain.at(0).format_guessed);
  EXPECT_EQ(read(*raw.backend, 0, 4), "QFI\xfb");
  expect_error(make_raw("a", 'a') + ",format=qcow2", "qcow2");
}

TEST_F(OpenDisk, FormatsThatAreOnlyKnownAreNotTakenForRaw) {
  const auto begin = [&](const std::string& name, std::string first) {
    first.resize(4096);
    std::ofstream(path(name), std::ios::binary) << first;
    return path(name);
  };
  using namespace std::string_literals;
  expect_error(begin("qed", "QED\0"s), "a QED image");
  expect_error(begin("qcow", "QFI\xfb\0\0\0\1"s), "version 1");
  expect_error(begin("vpc", "conectix"s), "a VHD image");
  EXPECT_EQ(error(begin("luks", "LUKS\xba\xbe\0\1"s)), "");  // a guest may encrypt its whole disk
}

// Item 14: CVE-2026-27211.
TEST_F(OpenDisk, AGuestCannotTurnAGuessedRawDiskIntoAnotherFormat) {
  const std::string image = make_raw("a", 'a');
  const std::string evil = bytes_of(std::filesystem::path(make_qcow2("evil", "/etc/shadow")).filename());
  OpenedDisk disk = open(image);
  using namespace std::string_literals;
  std::string vmdk("KDMV");
  vmdk.resize(512);
  for (const std::string& first : {evil.substr(0, 512), evil.substr(0, 65536), vmdk,
                                   "# Disk DescriptorFile\n"s + std::string(490, '\n')}) {
    const auto written = write(*disk.backend, 0, first);
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code, Errc::io);
    EXPECT_NE(std::string(written.error().what).find("format=raw"), std::string::npos);
  }
  EXPECT_EQ(read(*disk.backend, 0, 1024), std::string(1024, 'a')) << "nothing of it was written";
  // What is no format goes through, and so do qcow2 headers where nobody takes them for the disk's.
  EXPECT_TRUE(write(*disk.backend, 0, std::string(1024, 'b')));
  EXPECT_TRUE(write(*disk.backend, 512, evil.substr(0, 512)));
  EXPECT_EQ(read(*disk.backend, 0, 512), std::string(512, 'b'));
  EXPECT_TRUE(disk.close(*engine_));
}

TEST_F(OpenDisk, AGuestMayWriteAnythingWhereTheFormatWasSaidToBeRaw) {
  const std::string evil = bytes_of(std::filesystem::path(make_qcow2("evil", "/etc/shadow")).filename());
  OpenedDisk disk = open(make_raw("a", 'a') + ",format=raw");
  EXPECT_TRUE(write(*disk.backend, 0, evil.substr(0, 512)));
  EXPECT_TRUE(disk.close(*engine_));
}

// The guest's other CPU changes the buffer between the look at it and the write.
TEST_F(OpenDisk, TheGuardedFirstSectorIsWrittenAsItWasLookedAt) {
  OpenedDisk disk = open(make_raw("a", 'a'));
  std::string first(512, 'x');
  std::string rest(1024, 'y');
  const std::array pieces{iovec{first.data(), 100}, iovec{first.data() + 100, 412}, iovec{rest.data(), 1024}};
  auto task = disk.backend->run(
      *engine_, {.op = BlockOp::write, .offset = 0, .length = 1536, .data = std::span(pieces)});
  std::optional<Result<void>> done;
  spawn(std::move(task), [&](Result<void> result) { done = result; });
  std::memcpy(first.data(), "QFI\xfb", 4);
  while (!done) {
    if (engine_->poll() == 0) engine_->wait();
  }
  EXPECT_TRUE(*done);
  EXPECT_EQ(read(*disk.backend, 0, 1536), std::string(512, 'x') + rest);
}

TEST_F(OpenDisk, AChainIsOpenedReadOnlyBelowTheTop) {
  make_raw("base", 'b');
  make_qcow2("middle", "base", "raw");
  const std::string top = make_qcow2("top", path("middle"), "qcow2");
  OpenedDisk disk = open(top);
  EXPECT_EQ(disk.describe(), "qcow2 on qcow2 on raw");
  EXPECT_EQ(disk.chain.at(2).path, path("base"));
  EXPECT_TRUE(disk.warnings.empty());
  EXPECT_EQ(read(*disk.backend, 5000, 10), "bbbbbbbbbb");
  EXPECT_TRUE(write(*disk.backend, 4096, std::string(512, 'w')));
  EXPECT_EQ(read(*disk.backend, 4096, 1024), std::string(512, 'w') + std::string(512, 'b'));
  EXPECT_TRUE(disk.close(*engine_));
  EXPECT_EQ(bytes_of("base"), std::string(kMiB, 'b'));
}

TEST_F(OpenDisk, TwoDisksShareABackingFileAndNobodyWritesIt) {
  make_raw("base", 'b');
  const OpenedDisk one = open(make_qcow2("one", "base", "raw"));
  const OpenedDisk two = open(make_qcow2("two", "base", "raw"));
  expect_error(path("base"), "in use");
  expect_error(path("one"), "in use");
}

TEST_F(OpenDisk, RelativeBackingNamesAreRelativeToTheImage) {
  ASSERT_TRUE(std::filesystem::create_directory(path("sub")));
  make_raw("sub/base", 'b');
  make_raw("base", 'x');
  EXPECT_EQ(open(make_qcow2("sub/top", "base", "raw")).chain.at(1).path, path("sub/base"));
  EXPECT_EQ(open(make_qcow2("sub/up", "../base", "raw")).chain.at(1).path, path("sub/../base"));
  EXPECT_EQ(open(make_qcow2("sub/file", "file:base", "raw")).chain.at(1).path, path("sub/base"));
}

TEST_F(OpenDisk, ALoopIsRefusedByName) {
  expect_error(make_qcow2("self", "self", "qcow2"), "loop");
  make_qcow2("a", "b", "qcow2");
  make_qcow2("b", "c", "qcow2");
  make_qcow2("c", "./a", "qcow2");
  expect_error(path("a"), "loop");
  expect_error(path("a"), path("a"));
  std::filesystem::create_symlink(path("d"), path("link"));
  expect_error(make_qcow2("d", "link", "qcow2"), "loop");
  std::filesystem::create_hard_link(make_qcow2("e", "other", "qcow2"), path("other"));
  expect_error(path("e"), "loop");
}

TEST_F(OpenDisk, AChainHasALimit) {
  make_raw("0", 'b');
  for (size_t i = 1; i <= kMaxChainDepth; ++i) {
    make_qcow2(std::to_string(i), std::to_string(i - 1), i == 1 ? "raw" : "qcow2");
  }
  EXPECT_EQ(error(path(std::to_string(kMaxChainDepth - 1))), "");
  expect_error(path(std::to_string(kMaxChainDepth)), "more than 64 files");
}

TEST_F(OpenDisk, BackingFilesThatAreNoFilesAreRefused) {
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  expect_error(make_qcow2("a", "fifo", "raw"), "a FIFO");
  expect_error(make_qcow2("b", "/", "raw"), "a directory");
  expect_error(make_qcow2("c", "/dev/zero", "raw"), "a character device");
  expect_error(make_qcow2("d", "missing", "raw"), "missing");
}

TEST_F(OpenDisk, BackingFilesOnServersAreRefused) {
  for (const char* name : {"nbd:localhost:10809", "json:{\"driver\":\"null-co\"}", "http://host/image",
                           "ssh://host/image", "fat:rw:/tmp", "rbd:pool/image"}) {
    expect_error(make_qcow2("x", name, "raw"), "no local file");
    std::filesystem::remove(path("x"));
  }
}

TEST_F(OpenDisk, BackingNoneRefusesEveryBackingFile) {
  make_raw("base", 'b');
  expect_error(make_qcow2("top", "base", "raw") + ",backing=none", "backing=none");
  EXPECT_EQ(error(make_qcow2("alone") + ",backing=none"), "");
}

TEST_F(OpenDisk, ABackingFileOfUnknownFormatIsGuessedAndToldOf) {
  make_raw("base", 'b');
  const OpenedDisk disk = open(make_qcow2("top", "base"));
  EXPECT_EQ(disk.describe(), "qcow2 on raw");
  EXPECT_TRUE(disk.chain.at(1).format_guessed);
  ASSERT_EQ(disk.warnings.size(), 1U);
  EXPECT_NE(disk.warnings[0].find("guessed"), std::string::npos);
}

// A guest that once had the backing file as its raw disk may have written this header.
TEST_F(OpenDisk, AGuessedBackingFileMayNotNameFurtherFiles) {
  make_raw("secret", 's');
  make_qcow2("middle", "secret", "raw");
  const std::string top = make_qcow2("top", "middle");
  expect_error(top, "its own format is a guess");
  EXPECT_EQ(open(top + ",backing=trusted").describe(), "qcow2 on qcow2 on raw");
  make_qcow2("leaf");
  EXPECT_EQ(open(make_qcow2("above", "leaf")).describe(), "qcow2 on qcow2");
}

TEST_F(OpenDisk, AnUnknownBackingFormatIsAnError) {
  make_raw("base", 'b');
  expect_error(make_qcow2("top", "base", "paper"), "'paper'");
}

TEST_F(OpenDisk, AnUnknownSchemeIsAUsageError) {
  EXPECT_THROW(open("gopher://host/disk"), ConfigError);
}

TEST_F(OpenDisk, ATemporaryOverlayLeavesTheImageAloneAndIsGoneAfterwards) {
  for (const std::string& image : {make_raw("raw", 'r'), make_qcow2("qcow2")}) {
    const std::string before = bytes_of(std::filesystem::path(image).filename());
    ::setenv("TMPDIR", folder_.path().c_str(), 1);
    {
      OpenedDisk disk = open(image + ",overlay=temp");
      EXPECT_FALSE(disk.backend->read_only());
      EXPECT_TRUE(write(*disk.backend, 0, std::string(4096, 'w')));
      EXPECT_TRUE(write(*disk.backend, kMiB - 512, std::string(512, 'v')));
      EXPECT_EQ(read(*disk.backend, 0, 4096), std::string(4096, 'w'));
      EXPECT_EQ(read(*disk.backend, kMiB - 1024, 1024).substr(512), std::string(512, 'v'));
      EXPECT_TRUE(disk.close(*engine_));
    }
    ::unsetenv("TMPDIR");
    EXPECT_TRUE(bytes_of(std::filesystem::path(image).filename()) == before);
  }
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_.path())) ++files;
  EXPECT_EQ(files, 2U);
}

TEST_F(OpenDisk, ManyTemporaryOverlaysShareOneImage) {
  const std::string image = make_raw("raw", 'r') + ",overlay=temp";
  OpenedDisk one = open(image);
  OpenedDisk two = open(image);
  EXPECT_TRUE(write(*one.backend, 0, std::string(512, '1')));
  EXPECT_TRUE(write(*two.backend, 0, std::string(512, '2')));
  EXPECT_EQ(read(*one.backend, 0, 1), "1");
  EXPECT_EQ(read(*two.backend, 0, 1), "2");
  EXPECT_TRUE(one.close(*engine_));
  EXPECT_TRUE(two.close(*engine_));
}

TEST_F(OpenDisk, AnOverlayFileIsCreatedOnceAndKeepsTheWrites) {
  const std::string image = make_raw("raw", 'r');
  const std::string spec = image + ",overlay=" + path("keep.qcow2");
  {
    OpenedDisk disk = open(spec);
    EXPECT_EQ(disk.describe(), "qcow2 on raw");
    EXPECT_TRUE(write(*disk.backend, 512, std::string(512, 'w')));
    EXPECT_TRUE(disk.close(*engine_));
  }
  OpenedDisk again = open(spec);
  EXPECT_EQ(read(*again.backend, 0, 1024), std::string(512, 'r') + std::string(512, 'w'));
  EXPECT_TRUE(again.close(*engine_));
  EXPECT_TRUE(bytes_of("raw") == std::string(kMiB, 'r'));
  EXPECT_EQ(open(path("keep.qcow2")).chain.at(1).path, path("raw")) << "it stands by itself too";
}

TEST_F(OpenDisk, AnOverlayFileOverSomethingElseIsRefused) {
  const std::string image = make_raw("raw", 'r');
  make_raw("other", 'o');
  make_qcow2("over-other", "other", "raw");
  expect_error(image + ",overlay=" + path("over-other"), path("other"));
  make_qcow2("alone");
  expect_error(image + ",overlay=" + path("alone"), "no backing file");
  expect_error(image + ",overlay=" + make_raw("plain", 'p'), "qcow2");
  EXPECT_TRUE(bytes_of("plain") == std::string(kMiB, 'p'));
}

TEST_F(OpenDisk, LookingAtADiskChangesNothing) {
  const std::string image = make_qcow2("a");
  const std::string before = bytes_of("a");
  for (const char* overlay : {"", ",overlay=temp", ",overlay=/nowhere/x.qcow2"}) {
    const OpenedDisk disk = inspect_disk(*engine_, parse_disk_spec(image + overlay));
    EXPECT_TRUE(disk.backend->read_only());
  }
  EXPECT_TRUE(bytes_of("a") == before);
}

TEST_F(OpenDisk, ADiskSetOpensEachDiskOnceAndHandsItOver) {
  Log log;
  DiskSet disks(DiskSet::Purpose::run, log);
  const std::string image = make_raw("a", 'a');
  EXPECT_EQ(read(*disks.open(0, image).backend, 1000, 3), "aaa");
  expect_error(image, "in use");
  OpenedDisk disk = disks.take(0, image);
  EXPECT_FALSE(disk.backend->read_only());
  EXPECT_TRUE(write(*disk.backend, 0, std::string(512, 'w')));
  EXPECT_TRUE(disk.close(*engine_));
}

}  // namespace
}  // namespace minivmm::test
