// Random operations on images of many shapes, against an array of bytes; in the end qemu-img finds the image
// sound and reads the same bytes.
#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>

#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

struct Shape {
  const char* name;
  const char* options;
  uint64_t size = 2 << 20;
  bool backing = false;   // a raw file, longer or shorter than the image
  bool snapshot = false;  // taken by qemu-img half-way
  uint64_t cache = 0;
  CacheMode mode = CacheMode::writeback;
};

class RandomOperations : public ImageTest, public testing::WithParamInterface<Shape> {
 protected:
  static constexpr uint64_t kSector = 512;

  void open_again() {
    Image::Options options;
    if (GetParam().backing) options.backing = raw("backing.raw");
    if (std::string(GetParam().options).find("data_file") != std::string::npos)
      options.data_file = BlockFile::open(path("data.raw"), {.cache = GetParam().mode});
    options.cache_bytes = GetParam().cache;
    image_ = open(BlockFile::open(path("disk.qcow2"), {.cache = GetParam().mode}), std::move(options));
    ASSERT_NE(image_, nullptr) << why_;
  }

  void step() {
    const uint64_t sectors = model_.size() / kSector;
    const uint64_t most = std::min<uint64_t>(sectors, random_() % 8 == 0 ? 1024 : 40);
    const uint64_t count = 1 + random_() % most;
    const uint64_t offset = random_() % (sectors - count + 1) * kSector;
    const uint64_t length = count * kSector;
    const auto part = std::span(model_).subspan(offset, length);
    switch (random_() % 10) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const Bytes bytes = pattern(random_, length);
        ASSERT_TRUE(write(*image_, offset, bytes)) << offset << "+" << length;
        std::ranges::copy(bytes, part.begin());
        break;
      }
      case 4:
      case 5: {
        const auto bytes = read(*image_, offset, length);
        ASSERT_TRUE(bytes);
        ASSERT_TRUE(std::ranges::equal(*bytes, part)) << offset << "+" << length;
        break;
      }
      case 6:
      case 7:
        ASSERT_TRUE(run(*image_, {.op = BlockOp::write_zeroes,
                                  .offset = offset,
                                  .length = length,
                                  .may_unmap = random_() % 2 == 0}));
        std::ranges::fill(part, std::byte{0});
        break;
      case 8: {
        ASSERT_TRUE(run(*image_, {.op = BlockOp::discard, .offset = offset, .length = length}));
        const auto bytes = read(*image_, offset, length);  // whatever it is now, it stays
        ASSERT_TRUE(bytes);
        std::ranges::copy(*bytes, part.begin());
        break;
      }
      default: ASSERT_TRUE(flush(*image_));
    }
  }

  std::mt19937_64 random_{1};
  Bytes model_;
  std::unique_ptr<Image> image_;
};

TEST_P(RandomOperations, LeaveWhatTheModelSays) {
  const Shape& shape = GetParam();
  if (shape.mode == CacheMode::none) {
    struct statfs where{};
    ASSERT_EQ(::statfs(folder_.path().c_str(), &where), 0);
    if (where.f_type == TMPFS_MAGIC) GTEST_SKIP() << folder_.path() << " is in memory: TMPDIR names another";
  }
  model_.resize(shape.size);
  std::string more;
  if (shape.backing) {
    const Bytes below = pattern(random_, shape.size * (random_() % 2 == 0 ? 3 : 1) / 2);
    write_file("backing.raw", below);
    std::copy_n(below.begin(), std::min(below.size(), model_.size()), model_.begin());
    more = "-b backing.raw -F raw";
  }
  create("disk.qcow2", shape.size, shape.options, more);
  for (int round = 0; round < 3; ++round) {
    open_again();
    for (int i = 0; i < 120 && !HasFatalFailure(); ++i) step();
    if (round == 1) {  // growing and shrinking
      const uint64_t size = model_.size();
      ASSERT_TRUE(engine_->run(image_->resize(*engine_, size + size / 2)));
      model_.resize(size + size / 2);
      for (int i = 0; i < 60 && !HasFatalFailure(); ++i) step();
      ASSERT_TRUE(engine_->run(image_->resize(*engine_, size - kSector * 3)));
      model_.resize(size - kSector * 3);
    }
    const auto all = read(*image_, 0, model_.size());
    ASSERT_TRUE(all);
    const auto differ = std::ranges::mismatch(*all, model_).in1 - all->begin();
    ASSERT_EQ(*all, model_) << "first at " << differ;
    ASSERT_TRUE(close(*image_));
    image_.reset();
    ASSERT_EQ(check("disk.qcow2"), 0);
    ASSERT_EQ(as_qemu_reads("disk.qcow2"), model_);
    if (round == 1 && shape.snapshot) {
      ASSERT_EQ(shell(fmt::format("qemu-img snapshot -c kept {}", path("disk.qcow2"))), 0);
    }
  }
  if (shape.snapshot) {  // what it held is still to be had
    ASSERT_EQ(shell(fmt::format("qemu-img snapshot -a kept {}", path("disk.qcow2"))), 0);
    ASSERT_EQ(check("disk.qcow2"), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, RandomOperations,
    testing::Values(Shape{"Default", ""}, Shape{"Version2", "compat=0.10"},
                    Shape{"Version2Backed", "compat=0.10,cluster_size=4096", 1 << 20, true},
                    Shape{"Smallest", "cluster_size=512,refcount_bits=1", 600 << 10},
                    Shape{"SmallestWidest", "cluster_size=512,refcount_bits=64", 600 << 10},
                    Shape{"SmallestBacked", "cluster_size=512,refcount_bits=8", 300 << 10, true},
                    Shape{"LittleCache", "cluster_size=512,refcount_bits=16", 2 << 20, false, false, 2048},
                    Shape{"FourKiB", "cluster_size=4096,refcount_bits=2", 3 << 20},
                    Shape{"Largest", "cluster_size=2M", 9 << 20}, Shape{"Refcount4", "refcount_bits=4"},
                    Shape{"Refcount32", "refcount_bits=32"}, Shape{"Backed", "", 3 << 20, true},
                    Shape{"Extended", "extended_l2=on,cluster_size=64k", 3 << 20},
                    Shape{"ExtendedBacked", "extended_l2=on,cluster_size=128k", 3 << 20, true},
                    Shape{"ExtendedSmall", "extended_l2=on,cluster_size=16k", 1 << 20, true},
                    Shape{"Lazy", "lazy_refcounts=on,cluster_size=4096", 2 << 20},
                    Shape{"Snapshot", "cluster_size=4096", 1 << 20, false, true},
                    Shape{"SnapshotVersion3Extended", "extended_l2=on,cluster_size=16k", 1 << 20, false,
                          true},
                    Shape{"DataFile", "data_file=data.raw", 2 << 20},
                    Shape{"DataFileRaw", "data_file=data.raw,data_file_raw=on", 2 << 20},
                    Shape{"CacheNone", "", 3 << 20, true, false, 0, CacheMode::none},
                    Shape{"CacheNoneSmallest", "cluster_size=512,refcount_bits=8", 300 << 10, false, true, 0,
                          CacheMode::none},
                    Shape{"CacheNoneVersion2", "compat=0.10,cluster_size=2k", 600 << 10, false, false, 2048,
                          CacheMode::none},
                    Shape{"CacheNoneExtended", "extended_l2=on,cluster_size=16k", 1 << 20, false, false, 0,
                          CacheMode::none},
                    Shape{"CacheNoneDataFile", "data_file=data.raw,cluster_size=1k", 600 << 10, false, false,
                          0, CacheMode::none},
                    Shape{"DataFileExtended", "data_file=data.raw,extended_l2=on", 2 << 20}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace minivmm::qcow2::test
