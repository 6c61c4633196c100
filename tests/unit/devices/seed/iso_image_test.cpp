// The image is read back by programs that have nothing in common with the library that wrote it.
#include "devices/seed/iso_image.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "devices/seed/archive_library.h"
#include "devices/seed/seed_disk.h"
#include "tests/temp_folder.h"
#include "vmm/core/error.h"

namespace minivmm {
namespace {

// What a command says, which has to succeed.
std::string run(const std::string& command) {
  FILE* const pipe = ::popen((command + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return "(popen failed)";
  std::string said;
  for (std::array<char, 4096> piece{}; const size_t got = std::fread(piece.data(), 1, piece.size(), pipe);) {
    said.append(piece.data(), got);
  }
  const int status = ::pclose(pipe);
  EXPECT_EQ(status, 0) << command << ": tools/deps build installs what is needed\n" << said;
  return said;
}

std::string read(const std::filesystem::path& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

class IsoImageTest : public testing::Test {
 protected:
  // As a file with a name.
  std::string save(const UniqueFd& image) {
    struct stat info{};
    EXPECT_EQ(::fstat(image.get(), &info), 0);
    std::string bytes(static_cast<size_t>(info.st_size), '\0');
    EXPECT_EQ(::pread(image.get(), bytes.data(), bytes.size(), 0), info.st_size);
    const std::string path = folder_.path() / "image.iso";
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  std::filesystem::path unpack(const std::string& image) {
    const std::filesystem::path to = folder_.path() / "unpacked";
    run("xorriso -osirrox on -indev " + image + " -extract / " + to.string());
    return to;
  }

  test::TempFolder folder_;
};

const std::vector<IsoFile> kFiles{{"user-data", "#cloud-config\n"},
                                  {"meta-data", std::string("\0\xff\r\n", 4)},
                                  {"network-config", ""},
                                  {"large", std::string((3 << 20) + 1, 'x')}};

TEST_F(IsoImageTest, HoldsTheFilesUnderTheirNames) {
  const auto to = unpack(save(make_iso_image("cidata", kFiles)));
  for (const IsoFile& file : kFiles) EXPECT_EQ(read(to / file.name), file.content) << file.name;
}

TEST_F(IsoImageTest, HasTheLabelThatCloudInitLooksFor) {
  const std::string path = save(make_iso_image(kNoCloudLabel, kFiles));
  EXPECT_EQ(run("/sbin/blkid -p -o value -s TYPE " + path), "iso9660\n");
  EXPECT_EQ(run("/sbin/blkid -p -o value -s LABEL " + path), "cidata\n");
}

TEST_F(IsoImageTest, OnlyRootReadsItsFiles) {
  const std::string path = save(make_iso_image("cidata", std::span(kFiles).first(1)));
  EXPECT_THAT(run("xorriso -indev " + path + " -lsl / --"), testing::HasSubstr("-r--------"));
}

TEST_F(IsoImageTest, IsOfWholeBlocksAndSmall) {
  const UniqueFd image = make_iso_image("cidata", std::span(kFiles).first(2));
  struct stat info{};
  ASSERT_EQ(::fstat(image.get(), &info), 0);
  EXPECT_EQ(info.st_size % 2048, 0);
  EXPECT_LT(info.st_size, 128 << 10);
}

TEST_F(IsoImageTest, CannotBeChanged) {
  const UniqueFd image = make_iso_image("cidata", kFiles);
  EXPECT_LT(::pwrite(image.get(), "x", 1, 0), 0);
  EXPECT_LT(::ftruncate(image.get(), 0), 0);
}

TEST_F(IsoImageTest, AMissingLibraryIsOneLineWithItsPackage) {
  try {
    load_archive_library("libarchive.so.0");
    FAIL() << "it was loaded";
  } catch (const HostError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("libarchive13"));
    EXPECT_THAT(error.what(), testing::Not(testing::HasSubstr("\n")));
  }
}

TEST_F(IsoImageTest, AnotherLibraryIsNotTakenForIt) {
  EXPECT_THROW(load_archive_library("libz.so.1"), HostError);
}

TEST_F(IsoImageTest, TheDiskIsReadOnlyAndHoldsTheImage) {
  std::ofstream(folder_.path() / "user") << "#cloud-config\n";
  CloudInitConfig config;
  config.parse((folder_.path() / "user").string());
  OpenedDisk disk = make_seed_disk(config, {.instance_id = "i", .hostname = "h"});
  EXPECT_TRUE(disk.backend->read_only());
  EXPECT_EQ(disk.describe(), "raw");
  std::string bytes(disk.backend->capacity(), '\0');
  const iovec piece{bytes.data(), bytes.size()};
  const auto engine = IoEngine::create();
  ASSERT_TRUE(engine->run(disk.backend->run(
      *engine, {.op = BlockOp::read, .length = bytes.size(), .data = std::span(&piece, 1)})));
  const std::string path = folder_.path() / "disk.iso";
  std::ofstream(path, std::ios::binary) << bytes;
  EXPECT_EQ(read(unpack(path) / "user-data"), "#cloud-config\n");
}

}  // namespace
}  // namespace minivmm
