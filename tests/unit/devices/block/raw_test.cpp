#include "devices/block/raw.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "devices/block/file_lock.h"
#include "tests/temp_folder.h"

namespace minivmm {
namespace {

class BlockRaw : public testing::Test {
 protected:
  BlockRaw() {
    std::ofstream(path_).flush();
    std::filesystem::resize_file(path_, kSize);
  }

  std::unique_ptr<RawImage> open(const BlockFileOptions& options = {}) const {
    return RawImage::open(path_, options);
  }
  static Result<void> run(BlockBackend& disk, const BlockRequest& request) {
    const auto engine = IoEngine::create();
    return engine->run(disk.run(*engine, request));
  }
  static Result<void> transfer(BlockBackend& disk, BlockOp op, uint64_t offset, std::span<const iovec> data) {
    uint64_t length = 0;
    for (const iovec& piece : data) length += piece.iov_len;
    return run(disk, {.op = op, .offset = offset, .length = length, .data = data});
  }
  static Result<void> transfer(BlockBackend& disk, BlockOp op, uint64_t offset, std::string& text) {
    const iovec piece{text.data(), text.size()};
    return transfer(disk, op, offset, std::span(&piece, 1));
  }

  static constexpr uint64_t kSize = 64 << 20;
  test::TempFolder folder_;
  std::string path_ = (folder_.path() / "disk.img").string();
};

TEST_F(BlockRaw, ReadsWhatItWrote) {
  const auto disk = open();
  EXPECT_EQ(disk->capacity(), kSize);
  std::string out(4096, 'x');
  ASSERT_TRUE(transfer(*disk, BlockOp::write, 8192, out));
  ASSERT_TRUE(run(*disk, {.op = BlockOp::flush}));
  std::string in(4096, '\0');
  ASSERT_TRUE(transfer(*disk, BlockOp::read, 8192, in));
  EXPECT_EQ(in, out);
}

TEST_F(BlockRaw, TransfersMorePiecesThanOneSystemCallTakes) {
  const auto disk = open();
  std::string out(size_t{512} * 2500, '\0');
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<char>(i % 251);
  std::vector<iovec> pieces;
  for (size_t at = 0; at < out.size(); at += 512) pieces.push_back({out.data() + at, 512});
  ASSERT_TRUE(transfer(*disk, BlockOp::write, 512, pieces));
  std::string in(out.size(), '\0');
  ASSERT_TRUE(transfer(*disk, BlockOp::read, 512, in));
  EXPECT_EQ(in, out);
}

TEST_F(BlockRaw, TransfersMoreBytesThanItAsksForAtOnce) {
  const auto disk = open();
  std::string out(size_t{40} << 20, '\0');
  for (size_t i = 0; i < out.size(); i += 509) out[i] = static_cast<char>(i % 251);
  const size_t cut = (size_t{17} << 20) + 512;  // pieces that straddle what one call moves
  const std::vector<iovec> pieces{{out.data(), cut}, {out.data() + cut, out.size() - cut}};
  ASSERT_TRUE(transfer(*disk, BlockOp::write, 0, pieces));
  std::string in(out.size(), '\0');
  ASSERT_TRUE(transfer(*disk, BlockOp::read, 0, in));
  EXPECT_TRUE(in == out);
}

TEST_F(BlockRaw, ZeroesAndDiscardsKeepTheSize) {
  const auto disk = open();
  std::string out(65536, 'x');
  ASSERT_TRUE(transfer(*disk, BlockOp::write, 0, out));
  for (const bool unmap : {false, true}) {
    ASSERT_TRUE(
        run(*disk, {.op = BlockOp::write_zeroes, .offset = 4096, .length = 8192, .may_unmap = unmap}));
    std::string in(65536, '\0');
    ASSERT_TRUE(transfer(*disk, BlockOp::read, 0, in));
    EXPECT_EQ(in.substr(0, 4096), std::string(4096, 'x'));
    EXPECT_EQ(in.substr(4096, 8192), std::string(8192, '\0'));
    EXPECT_EQ(in[12288], 'x');
  }
  ASSERT_TRUE(run(*disk, {.op = BlockOp::discard, .offset = kSize - 4096, .length = 4096}));
  EXPECT_EQ(std::filesystem::file_size(path_), kSize);
}

TEST_F(BlockRaw, AnImageThatBecameShorterIsAnErrorNotAHang) {
  const auto disk = open();
  std::filesystem::resize_file(path_, 4096);
  std::string in(8192, '\0');
  const auto read = transfer(*disk, BlockOp::read, 0, in);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Errc::io);
}

TEST_F(BlockRaw, AWriteToAReadOnlyDescriptorFails) {
  const auto disk = open({.read_only = true});
  EXPECT_TRUE(disk->read_only());
  std::string out(512, 'x');
  EXPECT_FALSE(transfer(*disk, BlockOp::write, 0, out));
}

TEST_F(BlockRaw, RoundsItsSizeDownToSectors) {
  std::filesystem::resize_file(path_, 1025);
  const auto disk = open();
  EXPECT_EQ(disk->capacity(), 1024U);
  EXPECT_EQ(disk->ignored_bytes(), 1U);
}

TEST_F(BlockRaw, ReadersShareAndWritersDoNot) {
  {
    const auto one = open({.read_only = true});
    const auto two = open({.read_only = true});
    EXPECT_THROW(open(), HostError);
  }
  const auto writer = open();
  EXPECT_THROW(open(), HostError);
  EXPECT_THROW(open({.read_only = true}), HostError);
}

TEST_F(BlockRaw, TheLockEndsWithItsOwner) {
  open().reset();
  EXPECT_NO_THROW(open());
}

TEST_F(BlockRaw, AFifoIsRefusedAndNotWaitedFor) {
  std::filesystem::remove(path_);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THROW(open({.read_only = true}), HostError);
  EXPECT_THROW(open(), HostError);
}

TEST_F(BlockRaw, TheDescriptorIsNotInherited) {
  UniqueFd before(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const auto disk = open();
  EXPECT_NE(::fcntl(before.get() + 1, F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(BlockRaw, AClassicLockNamesItsProcess) {
  UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  struct flock lock{};
  lock.l_type = F_WRLCK;
  int ready[2];
  int over[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(over), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::fcntl(fd.get(), F_SETLK, &lock);
    char byte = 0;
    [[maybe_unused]] auto sent = ::write(ready[1], &byte, 1);
    ::close(over[1]);
    [[maybe_unused]] auto got = ::read(over[0], &byte, 1);
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  try {
    open();
    ADD_FAILURE() << "it was locked";
  } catch (const HostError& error) {
    EXPECT_NE(std::string(error.what()).find("process " + std::to_string(child)), std::string::npos)
        << error.what();
  }
  for (const int end : {ready[0], ready[1], over[0], over[1]}) ::close(end);
  ::waitpid(child, nullptr, 0);
}

}  // namespace
}  // namespace minivmm
