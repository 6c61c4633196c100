#include "devices/block/block_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/conformance/fake_host.h"
#include "tests/temp_folder.h"

namespace minivmm {
namespace {

class BlockFileTest : public testing::TestWithParam<IoEngine::Kind> {
 protected:
  void SetUp() override {
    try {
      engine_ = IoEngine::create(GetParam());
    } catch (const HostError& error) {
      GTEST_SKIP() << error.what();  // a host without io_uring
    }
  }
  std::unique_ptr<BlockFile> create(CacheMode cache = CacheMode::writeback) const {
    return BlockFile::open(path_, {.cache = cache, .create = true});
  }
  Result<void> write(BlockFile& file, uint64_t offset, std::string bytes) {
    const iovec piece{bytes.data(), bytes.size()};
    return engine_->run(file.write(*engine_, offset, std::span(&piece, 1)));
  }
  std::string read(BlockFile& file, uint64_t offset, size_t size) {
    std::string bytes(size, '?');
    const iovec piece{bytes.data(), bytes.size()};
    const auto done = engine_->run(file.read(*engine_, offset, std::span(&piece, 1)));
    return done ? bytes : std::string("failed: ") + done.error().what;
  }

  test::TempFolder folder_;
  std::string path_ = (folder_.path() / "file").string();
  std::unique_ptr<IoEngine> engine_;
};

TEST_P(BlockFileTest, GrowsWithWhatIsWrittenAndReadsZeroesBehindThat) {
  const auto file = create();
  EXPECT_EQ(file->size(), 0U);
  ASSERT_TRUE(write(*file, 1000, "abc"));
  EXPECT_EQ(file->size(), 1003U);
  EXPECT_EQ(read(*file, 998, 8), std::string("\0\0abc\0\0\0", 8));
  EXPECT_EQ(read(*file, 1 << 20, 4), std::string(4, '\0'));
  ASSERT_TRUE(write(*file, 10, std::string(200'000, 'x')));
  EXPECT_EQ(file->size(), 200'010U);
  EXPECT_EQ(read(*file, 200'008, 4), std::string("xx\0\0", 4));
  EXPECT_TRUE(engine_->run(file->sync(*engine_)));
}

TEST_P(BlockFileTest, CreatesOnlyWhatIsNotThere) {
  create();
  EXPECT_THROW(create(), HostError);
}

TEST_P(BlockFileTest, AFullDiskIsToldFromAFailedOne) {
  BlockFile full(UniqueFd(::open("/dev/full", O_RDWR | O_CLOEXEC)), "/dev/full", {}, 0);
  for (const size_t size : {size_t{512}, size_t{1} << 20}) {  // at once, and by the engine
    const auto written = write(full, 0, std::string(size, 'x'));
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code, Errc::no_space);
  }
  EXPECT_EQ(full.size(), 0U);
  BlockFile closed(UniqueFd(), "nothing", {}, 0);
  const auto written = write(closed, 0, "x");
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, Errc::io);
}

TEST_P(BlockFileTest, ZeroesWhatItsFileSystemCannotZero) {
  BlockFile file(UniqueFd(::memfd_create("zeroes", MFD_CLOEXEC)), "memory", {}, 0);  // has no ZERO_RANGE
  ASSERT_TRUE(write(file, 0, std::string(3'000'000, 'x')));
  for (const bool unmap : {false, true}) {
    ASSERT_TRUE(write(file, 0, std::string(3'000'000, 'x')));
    ASSERT_TRUE(engine_->run(file.write_zeroes(*engine_, 1000, 2'500'000, unmap)));
    EXPECT_EQ(read(file, 999, 2), std::string("x\0", 2));
    EXPECT_EQ(read(file, 1000, 2'500'000), std::string(2'500'000, '\0'));
    EXPECT_EQ(read(file, 2'500'999, 2), std::string("\0\x78", 2));
  }
  EXPECT_EQ(file.size(), 3'000'000U);
}

TEST_P(BlockFileTest, ADiscardIsAHint) {
  const auto file = create();
  ASSERT_TRUE(write(*file, 0, std::string(1 << 20, 'x')));
  EXPECT_TRUE(engine_->run(file->discard(*engine_, 4096, 8192)));
  EXPECT_EQ(file->size(), 1U << 20);
  EXPECT_EQ(read(*file, 0, 4096), std::string(4096, 'x'));
}

TEST_P(BlockFileTest, ChangesItsSizeBothWays) {
  const auto file = create();
  ASSERT_TRUE(file->resize(10'000));
  EXPECT_EQ(read(*file, 9'990, 10), std::string(10, '\0'));
  ASSERT_TRUE(write(*file, 9'000, "y"));
  ASSERT_TRUE(file->resize(5'000));
  EXPECT_EQ(std::filesystem::file_size(path_), 5'000U);
  ASSERT_TRUE(file->resize(10'000));
  EXPECT_EQ(read(*file, 9'000, 1), std::string(1, '\0'));
}

TEST_P(BlockFileTest, AFileCutUnderItsFeetIsAnErrorNotZeroes) {
  const auto file = create();
  ASSERT_TRUE(file->resize(10'000));
  std::filesystem::resize_file(path_, 5'000);
  EXPECT_EQ(read(*file, 6'000, 4), "failed: the disk image became shorter");
}

TEST_P(BlockFileTest, UnalignedTransfersGoPastThePageCacheToo) {
  std::unique_ptr<BlockFile> file;
  try {
    file = create(CacheMode::none);
  } catch (const HostError& error) {
    GTEST_SKIP() << error.what();
  }
  ASSERT_GE(file->alignment(), 512U);
  std::mt19937 random(7);  // NOLINT: the same sequence each time
  std::string model(3 << 20, '\0');
  for (int round = 0; round < 60; ++round) {
    const size_t offset = random() % (model.size() / 2);
    const size_t size = 1 + random() % (round % 10 == 0 ? model.size() / 2 : 9000);
    const auto letter = static_cast<char>('a' + round % 26);
    if (round % 7 == 6) {
      ASSERT_TRUE(engine_->run(file->write_zeroes(*engine_, offset, size, round % 2 == 0)));
      model.replace(offset, size, size, '\0');
    } else {
      ASSERT_TRUE(write(*file, offset, std::string(size, letter)));
      model.replace(offset, size, size, letter);
    }
    const size_t from = random() % (model.size() - 5000);
    ASSERT_EQ(read(*file, from, 5000), model.substr(from, 5000)) << round;
  }
  EXPECT_TRUE(read(*file, 0, model.size()) == model);
  EXPECT_EQ(file->size() % file->alignment(), 0U);
}

TEST_P(BlockFileTest, WritesThatShareABlockPastThePageCacheAllArrive) {
  std::unique_ptr<BlockFile> file;
  try {
    file = create(CacheMode::none);
  } catch (const HostError& error) {
    GTEST_SKIP() << error.what();
  }
  constexpr size_t kEach = 100;
  std::vector<std::string> texts;
  std::vector<iovec> pieces(200);
  for (size_t i = 0; i < pieces.size(); ++i) {
    texts.emplace_back(kEach, static_cast<char>('a' + i % 26));
  }
  unsigned ended = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    pieces[i] = {texts[i].data(), kEach};
    spawn(file->write(*engine_, kEach * i, std::span(&pieces[i], 1)), [&](Result<void> done) {
      EXPECT_TRUE(done);
      ++ended;
    });
  }
  while (ended < pieces.size()) {
    if (engine_->poll() == 0) engine_->wait();
  }
  for (size_t i = 0; i < pieces.size(); ++i) EXPECT_EQ(read(*file, kEach * i, kEach), texts[i]);
}

TEST_P(BlockFileTest, ReadsAnOddSizedFilePastThePageCache) {
  std::ofstream(path_) << std::string(5000, 'z');
  std::unique_ptr<BlockFile> file;
  try {
    file = BlockFile::open(path_, {.read_only = true, .cache = CacheMode::none});
  } catch (const HostError& error) {
    GTEST_SKIP() << error.what();
  }
  EXPECT_EQ(read(*file, 0, 8192), std::string(5000, 'z') + std::string(3192, '\0'));
  EXPECT_EQ(read(*file, 4999, 2), std::string("z\0", 2));
}

// The storage fails as often as it is told; all else is another engine's work.
class FailingSyncs final : public IoEngine {
 public:
  explicit FailingSyncs(IoEngine& engine) : engine_(engine) {}
  int error = 0;  // of the syncs that are started

  Kind kind() const override { return engine_.kind(); }
  void start(IoOperation& operation) override {
    if (operation.kind != IoOperation::Kind::datasync || error == 0) return engine_.start(operation);
    failed_.push_back({&operation, error});
  }
  void flush() override { engine_.flush(); }
  unsigned poll() override {
    const auto failed = std::exchange(failed_, {});
    for (const auto& [operation, why] : failed) operation->done(*operation, -why);
    return static_cast<unsigned>(failed.size()) + engine_.poll();
  }
  bool ready() const override { return !failed_.empty() || engine_.ready(); }
  void wait() override {
    if (failed_.empty()) engine_.wait();
  }
  int fd() const override { return engine_.fd(); }
  void post(IoPosted& posted) override { engine_.post(posted); }
  unsigned in_flight() const override { return static_cast<unsigned>(failed_.size()) + engine_.in_flight(); }

 private:
  IoEngine& engine_;
  std::vector<std::pair<IoOperation*, int>> failed_;
};

// The kernel tells of lost pages once, and a later fsync(2) succeeds: what was lost is lost all the same.
TEST_P(BlockFileTest, ASyncThatLostSomethingMakesAllLaterOnesFail) {
  const auto file = create();
  FailingSyncs failing(*engine_);
  const auto sync = [&] { return failing.run(file->sync(failing)); };
  ASSERT_TRUE(write(*file, 0, "abc"));
  EXPECT_TRUE(sync());
  failing.error = EIO;
  const auto lost = sync();
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, Errc::io);
  failing.error = 0;
  ASSERT_TRUE(write(*file, 0, "abc"));
  for (int i = 0; i < 3; ++i) {
    const auto later = sync();
    ASSERT_FALSE(later);
    EXPECT_EQ(later.error().code, Errc::io);
  }
  EXPECT_FALSE(engine_->run(file->sync(*engine_)));  // whoever asks
  EXPECT_EQ(read(*file, 0, 3), "abc");
}

TEST_P(BlockFileTest, ASyncThatFoundNoRoomMaySucceedLater) {
  const auto file = create();
  FailingSyncs failing(*engine_);
  failing.error = ENOSPC;
  const auto full = failing.run(file->sync(failing));
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, Errc::no_space);
  failing.error = 0;
  EXPECT_TRUE(failing.run(file->sync(failing)));
}

TEST_P(BlockFileTest, BeginsNoTransferThatIsToBeGivenUp) {
  const auto file = create();
  const EventFd kick;
  test::Counter checked;
  auto worker = QueueWorker::start("w", kick, {}, [&](unsigned, const StopFlag& stop) {
    const auto engine = IoEngine::create(GetParam());
    checked.add();
    while (!stop.give_up()) std::this_thread::yield();
    std::array<char, 4> bytes{};
    const iovec piece{bytes.data(), bytes.size()};
    const auto written = engine->run(file->write(*engine, 0, std::span(&piece, 1), &stop));
    EXPECT_TRUE(!written && written.error().code == Errc::closed);
    const auto got = engine->run(file->read(*engine, 0, std::span(&piece, 1), &stop));
    EXPECT_TRUE(!got && got.error().code == Errc::closed);
    checked.add();
  });
  ASSERT_TRUE(worker);
  ASSERT_TRUE(checked.wait_past(0));
  (*worker)->stop();
  EXPECT_EQ(checked.count(), 2U);
  EXPECT_EQ(file->size(), 0U);
}

std::string kind_name(const testing::TestParamInfo<IoEngine::Kind>& param) {
  return param.param == IoEngine::Kind::uring ? "uring" : "threads";
}
INSTANTIATE_TEST_SUITE_P(Kinds, BlockFileTest,
                         testing::Values(IoEngine::Kind::uring, IoEngine::Kind::threads), kind_name);

}  // namespace
}  // namespace minivmm
