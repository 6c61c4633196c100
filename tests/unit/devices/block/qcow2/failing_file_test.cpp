// A full disk, a failing one, a request that is given up: at each of a file's operations in turn. The request
// that failed is done again, and nothing is amiss in the end.
#include <algorithm>

#include "tests/unit/devices/block/logged_file.h"
#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

// Fails one operation, with what `error` says.
class FailingFile final : public BlockFile {
 public:
  FailingFile(UniqueFd fd, uint64_t size, Errc error)
      : BlockFile(std::move(fd), "(failing)", unlocked(), size), error_(error) {}

  void fail_at(unsigned operation) { left_ = operation; }
  bool failed() const { return left_ == 0; }

  Task<Result<void>> read(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                          const StopFlag* stop) override {
    if (error_ == Errc::io && due()) co_return fail(error_, "as asked for");
    co_return co_await BlockFile::read(engine, offset, pieces, stop);
  }
  Task<Result<void>> write(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                           const StopFlag* stop) override {
    if (due()) {
      // Half of it may be there.
      const std::vector<iovec> first(pieces.begin(), pieces.begin() + 1);
      const Result<void> part = co_await BlockFile::write(engine, offset, first, stop);
      static_cast<void>(part);
      co_return fail(error_, "as asked for");
    }
    co_return co_await BlockFile::write(engine, offset, pieces, stop);
  }
  bool read_now(uint64_t, uint64_t, std::span<const iovec>) override { return false; }
  bool write_now(uint64_t, uint64_t, std::span<const iovec>) override { return false; }
  Task<Result<void>> sync(IoEngine& engine) override {
    if (due()) co_return fail(error_, "as asked for");
    co_return co_await BlockFile::sync(engine);
  }
  // Step by step, so that each write and sync is seen in its turn.
  Task<Result<void>> run_script(IoEngine& engine, BlockScript& script) override {
    return run_by_steps(engine, script);
  }
  Task<Result<void>> write_zeroes(IoEngine& engine, uint64_t offset, uint64_t length,
                                  bool may_unmap) override {
    if (due()) co_return fail(error_, "as asked for");
    co_return co_await BlockFile::write_zeroes(engine, offset, length, may_unmap);
  }
  Result<void> resize(uint64_t size_bytes) override {
    if (due()) return fail(error_, "as asked for");
    return BlockFile::resize(size_bytes);
  }

 private:
  static BlockFileOptions unlocked() {
    BlockFileOptions options;
    options.lock = false;
    return options;
  }
  bool due() { return left_ > 0 && --left_ == 0; }

  Errc error_;
  unsigned left_ = 0;
};

struct Shape {
  const char* name;
  const char* options;
  Errc error;
  bool snapshot = false;
};

class FailingFileTest : public ImageTest, public testing::WithParamInterface<Shape> {
 protected:
  static constexpr uint64_t kSize = 256 << 10;

  minivmm::test::FileBytes contents_of(const std::string& name) const {
    UniqueFd fd(::open(path(name).c_str(), O_RDONLY | O_CLOEXEC));
    minivmm::test::FileBytes bytes(static_cast<size_t>(::lseek(fd.get(), 0, SEEK_END)));
    EXPECT_EQ(::pread(fd.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return bytes;
  }

  // Until it succeeds: the second time it must.
  void insist(const std::function<Result<void>()>& request, const FailingFile& file) {
    const bool before = file.failed();
    Result<void> done = request();
    if (!done) {
      EXPECT_FALSE(before) << "a failure without a cause: " << done.error().what;
      EXPECT_EQ(done.error().code, GetParam().error) << done.error().what;
      done = request();
    }
    ASSERT_TRUE(done) << done.error().what;
  }

  void work(Image& image, Bytes& model, const FailingFile& file) {
    std::mt19937_64 random(5);
    for (int i = 0; i < 24 && !HasFatalFailure(); ++i) {
      const uint64_t length = (1 + random() % 20) * kSectorSize;
      const uint64_t offset = random() % ((model.size() - length) / kSectorSize) * kSectorSize;
      const auto part = std::span(model).subspan(offset, length);
      if (i % 5 == 4) {
        insist([&] { return flush(image); }, file);
      } else if (i % 5 == 3) {
        const BlockRequest zeroes{
            .op = BlockOp::write_zeroes, .offset = offset, .length = length, .may_unmap = i % 2 == 0};
        insist([&] { return run(image, zeroes); }, file);
        std::ranges::fill(part, std::byte{0});
      } else {
        const Bytes bytes = pattern(random, length);
        insist([&] { return write(image, offset, bytes); }, file);
        std::ranges::copy(bytes, part.begin());
      }
    }
    const uint64_t grown = model.size() * 2;
    insist([&] { return engine_->run(image.resize(*engine_, grown)); }, file);
    model.resize(grown);
    insist([&] { return write(image, grown - kSectorSize, Bytes(kSectorSize, std::byte{5})); }, file);
    std::fill_n(model.end() - static_cast<std::ptrdiff_t>(kSectorSize), kSectorSize, std::byte{5});
    insist([&] { return close(image); }, file);
  }
};

TEST_P(FailingFileTest, LosesNothing) {
  const Shape& shape = GetParam();
  create("disk.qcow2", kSize, shape.options);
  Bytes before(kSize);
  if (shape.snapshot) {
    ASSERT_EQ(shell(fmt::format("qemu-io -c 'write -P 7 0 {}' disk.qcow2", kSize / 2)), 0);
    ASSERT_EQ(shell("qemu-img snapshot -c kept disk.qcow2"), 0);
    std::fill_n(before.begin(), kSize / 2, std::byte{7});
  }
  const auto start = contents_of("disk.qcow2");
  bool went_through = false;
  for (unsigned at = 1; !went_through && !HasFatalFailure(); at += at < 24 ? 1 : 7) {
    SCOPED_TRACE(at);
    auto file = std::make_unique<FailingFile>(minivmm::test::memory_file(start), start.size(), shape.error);
    FailingFile& failing = *file;
    const auto image = open(std::move(file), Image::Options{});
    ASSERT_NE(image, nullptr) << why_;
    failing.fail_at(at);
    Bytes model = before;
    work(*image, model, failing);
    went_through = !failing.failed();
    failing.fail_at(0);  // no more
    const auto all = read(*image, 0, model.size());
    ASSERT_TRUE(all);
    ASSERT_EQ(*all, model);
    Bytes bytes(failing.size());
    ASSERT_EQ(::pread(failing.fd(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    write_file("after.qcow2", bytes);
    ASSERT_EQ(check("after.qcow2"), 0);
    if (went_through) {
      EXPECT_EQ(as_qemu_reads("after.qcow2"), model);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FailingFileTest,
    testing::Values(Shape{"DiskFull", "cluster_size=4096", Errc::no_space},
                    Shape{"DiskFullSmallest", "cluster_size=512,refcount_bits=64", Errc::no_space},
                    Shape{"DiskFullSnapshot", "cluster_size=4096", Errc::no_space, true},
                    Shape{"DiskFullLazy", "cluster_size=4096,lazy_refcounts=on", Errc::no_space},
                    Shape{"DiskFullExtended", "cluster_size=16k,extended_l2=on", Errc::no_space},
                    Shape{"GivenUp", "cluster_size=4096", Errc::closed},
                    Shape{"Failing", "cluster_size=1024", Errc::io, true}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace minivmm::qcow2::test
