// Reads that need no wait: docs/qcow2.md, "Requests".
#include <fcntl.h>

#include "devices/block/io_sync.h"
#include "devices/block/qcow2/cluster_lock.h"
#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

constexpr uint64_t kCluster = 65536;

// Writes wait for `released`.
class HoldingFile final : public BlockFile {
 public:
  HoldingFile(const std::string& path, uint64_t size, IoEvent& released)
      : BlockFile(UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC)), path, {.lock = false}, size),
        released_(released) {}

  bool write_now(uint64_t, uint64_t, std::span<const iovec>) override { return false; }
  Task<Result<void>> write(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                           const StopFlag* stop) override {
    co_await released_.wait(engine);
    co_return co_await BlockFile::write(engine, offset, pieces, stop);
  }

 private:
  IoEvent& released_;
};

class Qcow2ReadNow : public ImageTest {
 protected:
  void SetUp() override {
    write_file("probe", Bytes(4096));
    Bytes bytes(4096);
    const iovec piece{bytes.data(), bytes.size()};
    if (!raw("probe")->read_now(0, bytes.size(), {&piece, 1}))
      GTEST_SKIP() << "the file system of the temporary folder has no reads that do not wait (RWF_NOWAIT)";
  }
  // What is there now; nothing where that needs a wait.
  static Bytes now(BlockBackend& disk, uint64_t offset, uint64_t length) {
    Bytes bytes(length, std::byte{0xee});
    const std::array pieces{iovec{bytes.data(), 512}, iovec{bytes.data() + 512, length - 512}};
    return disk.read_now(offset, length, pieces) ? bytes : Bytes{};
  }
};

TEST_F(Qcow2ReadNow, GivesDataAndZeroesWhoseTableIsInMemory) {
  create("disk.qcow2", 4 << 20, "");
  const auto image = open("disk.qcow2");
  ASSERT_TRUE(write(*image, kCluster, Bytes(kCluster, std::byte{0x11})));
  EXPECT_EQ(now(*image, kCluster + 4096, 4096), Bytes(4096, std::byte{0x11}));
  EXPECT_EQ(now(*image, 2 * kCluster, 4096), Bytes(4096));
  EXPECT_TRUE(close(*image));
}

TEST_F(Qcow2ReadNow, LeavesATableThatIsNotInMemoryToTheTask) {
  create("disk.qcow2", 4 << 20, "");
  {
    const auto image = open("disk.qcow2");
    ASSERT_TRUE(write(*image, 0, Bytes(kCluster, std::byte{0x11})));
    ASSERT_TRUE(close(*image));
  }
  const auto image = open("disk.qcow2", false);
  EXPECT_TRUE(now(*image, 0, 4096).empty());
  EXPECT_EQ(read(*image, 0, 4096).value(), Bytes(4096, std::byte{0x11}));
  EXPECT_EQ(now(*image, 0, 4096), Bytes(4096, std::byte{0x11}));
}

TEST_F(Qcow2ReadNow, ShowsTheBackingFileUpToItsEnd) {
  create("disk.qcow2", 4 << 20, "");
  write_file("base", Bytes(kCluster, std::byte{0x22}));
  const auto image = open("disk.qcow2", true, raw("base"));
  EXPECT_EQ(now(*image, kCluster - 4096, 4096), Bytes(4096, std::byte{0x22}));
  EXPECT_TRUE(now(*image, kCluster - 4096, 8192).empty());
  EXPECT_EQ(now(*image, kCluster, 4096), Bytes(4096));
  EXPECT_TRUE(close(*image));
}

TEST_F(Qcow2ReadNow, LeavesClustersThatAreNotInARowToTheTask) {
  create("disk.qcow2", 4 << 20, "");
  const auto image = open("disk.qcow2");
  ASSERT_TRUE(write(*image, kCluster, Bytes(kCluster, std::byte{0x11})));
  ASSERT_TRUE(write(*image, 0, Bytes(kCluster, std::byte{0x33})));
  EXPECT_TRUE(now(*image, kCluster - 4096, 8192).empty());
  Bytes both(4096, std::byte{0x33});
  both.resize(8192, std::byte{0x11});
  EXPECT_EQ(read(*image, kCluster - 4096, 8192).value(), both);
  EXPECT_TRUE(close(*image));
}

TEST_F(Qcow2ReadNow, IsNotDoneWhileAMappingChanges) {
  create("disk.qcow2", 4 << 20, "");
  IoEvent released;
  released.set();
  const auto image = open(std::make_unique<HoldingFile>(
                              path("disk.qcow2"), std::filesystem::file_size(path("disk.qcow2")), released),
                          Image::Options{});
  ASSERT_TRUE(write(*image, 0, Bytes(kCluster, std::byte{0x11})));
  released.reset();
  Bytes late(kCluster, std::byte{0x44});
  const iovec piece{late.data(), late.size()};
  bool ended = false;
  image->submit(*engine_,
                {.op = BlockOp::write, .offset = kCluster, .length = late.size(), .data = {&piece, 1}},
                [&](Result<void> done) {
                  EXPECT_TRUE(done);
                  ended = true;
                });
  EXPECT_TRUE(now(*image, kCluster, 4096).empty());
  EXPECT_EQ(read(*image, 0, 4096).value(), Bytes(4096, std::byte{0x11}));
  released.set();
  while (!ended) {
    if (engine_->poll() == 0) engine_->wait();
  }
  EXPECT_EQ(now(*image, kCluster, 4096), Bytes(4096, std::byte{0x44}));
  EXPECT_TRUE(close(*image));
}

TEST(ClusterLock, WhoLooksBeforeAndAfterSeesAnExclusiveHoldThatCameAndWent) {
  ClusterLock lock;
  const auto before = lock.look();
  EXPECT_TRUE(before.quiet());
  {
    ClusterLock::Hold shared(lock);
    ASSERT_TRUE(shared.try_take(0, 9, ClusterLock::Mode::shared));
    EXPECT_TRUE(lock.same(before));
    ClusterLock::Hold exclusive(lock);
    ASSERT_TRUE(exclusive.try_take(10, 10, ClusterLock::Mode::exclusive));
    EXPECT_FALSE(lock.look().quiet());
  }
  EXPECT_TRUE(lock.look().quiet());
  EXPECT_FALSE(lock.same(before));
}

TEST(ClusterLock, IsTakenAtOnceOrNotAtAll) {
  ClusterLock lock;
  ClusterLock::Hold first(lock);
  ASSERT_TRUE(first.try_take(3, 5, ClusterLock::Mode::exclusive));
  ClusterLock::Hold second(lock);
  EXPECT_FALSE(second.try_take(5, 6, ClusterLock::Mode::shared));
  first.leave();
  EXPECT_TRUE(second.try_take(5, 6, ClusterLock::Mode::shared));
}

}  // namespace
}  // namespace minivmm::qcow2::test
