// A process that is killed at each of the system calls of its commits, in turn: docs/qcow2.md, "A killed
// process".
#include <fcntl.h>

#include <cerrno>
#include <filesystem>

#include "devices/block/qcow2/check.h"
#include "tests/unit/devices/block/held_helper.h"
#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

using minivmm::test::HeldHelper;
using minivmm::test::kill_at_call;

struct Shape {
  const char* name;
  const char* options;
  CacheMode cache = CacheMode::writeback;
};

class KilledCommit : public ImageTest, public testing::WithParamInterface<Shape> {
 protected:
  static constexpr uint64_t kSize = 4 << 20;

  // In the child, with an engine of its own: clusters taken, given back and shared, tables that move.
  void work() {
    engine_ = IoEngine::create();
    Image::Options options;
    BlockFileOptions file_options;
    file_options.cache = GetParam().cache;
    const auto image = open(BlockFile::open(path("disk.qcow2"), file_options), std::move(options));
    ASSERT_NE(image, nullptr) << why_;
    std::mt19937_64 random(3);
    const auto put = [&](uint64_t offset, uint64_t length) {
      ASSERT_TRUE(write(*image, offset, pattern(random, length)));
    };
    put(0, 5 << 18);
    ASSERT_TRUE(flush(*image));
    ASSERT_TRUE(run(*image, {.op = BlockOp::discard, .offset = 1 << 16, .length = 1 << 17}));
    put(2 << 20, 3 << 18);
    ASSERT_TRUE(flush(*image));
    ASSERT_TRUE(engine_->run(image->resize(*engine_, kSize * 8)));
    put(kSize * 8 - (1 << 17), 1 << 17);
    ASSERT_TRUE(flush(*image));
    ASSERT_TRUE(engine_->run(image->resize(*engine_, kSize / 8)));
    ASSERT_TRUE(close(*image));
  }

  void expect_locked() const {
    const UniqueFd fd(::open(path("disk.qcow2").c_str(), O_RDWR | O_CLOEXEC));
    struct flock lock{};
    lock.l_type = F_WRLCK;
    EXPECT_EQ(::fcntl(fd.get(), F_OFD_SETLK, &lock), -1);
    EXPECT_EQ(errno, EAGAIN);
  }

  void expect_no_leaks() {
    const auto file = BlockFile::open(path("disk.qcow2"), {.read_only = true});
    const auto found = engine_->run(check_image(*engine_, *file, {}, why_));
    ASSERT_TRUE(found) << why_;
    EXPECT_EQ(found->corruptions, 0U);
    EXPECT_EQ(found->leaks, 0U);
  }
};

TEST_P(KilledCommit, IsWholeWhereverTheKillFalls) {
  unsigned cut = 0;
  create("new.qcow2", kSize, GetParam().options);
  for (unsigned at = 1;; at += at < 14 ? 1 : 9) {
    SCOPED_TRACE(at);
    std::filesystem::copy_file(path("new.qcow2"), path("disk.qcow2"),
                               std::filesystem::copy_options::overwrite_existing);
    const HeldHelper seen = kill_at_call(at, [this] { work(); }, [this] { expect_locked(); });
    if (!seen.unsupported.empty()) GTEST_SKIP() << seen.unsupported;
    expect_no_leaks();
    if (HasFailure()) return;
    if (!seen.killed) {
      EXPECT_GT(seen.calls, 12U);
      break;
    }
    cut += seen.after > 0 ? 1 : 0;
    if (at % 8 == 0) {
      EXPECT_EQ(check("disk.qcow2"), 0);
    }
  }
  EXPECT_GT(cut, 8U);  // commits went on after the death of who had begun them
}

INSTANTIATE_TEST_SUITE_P(Shapes, KilledCommit,
                         testing::Values(Shape{"Default", ""},
                                         Shape{"Small", "cluster_size=512,refcount_bits=64"},
                                         Shape{"Version2", "compat=0.10,cluster_size=4096"},
                                         Shape{"Extended", "extended_l2=on,cluster_size=32k,refcount_bits=1"},
                                         Shape{"Unsynced", "cluster_size=4096", CacheMode::unsafe}),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace minivmm::qcow2::test
