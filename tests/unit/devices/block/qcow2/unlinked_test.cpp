// A commit while a write's data is on its way: docs/qcow2.md, "Commit".
#include <fcntl.h>

#include "devices/block/io_sync.h"
#include "devices/block/qcow2/check.h"
#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

constexpr std::byte kHeld{0xaa};

// Writes that begin with kHeld wait for `released`.
class HoldingFile final : public BlockFile {
 public:
  HoldingFile(const std::string& path, uint64_t size, IoEvent& released)
      : BlockFile(UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC)), path, {.lock = false}, size),
        released_(released) {}

  bool write_now(uint64_t, uint64_t, std::span<const iovec>) override { return false; }
  Task<Result<void>> write(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                           const StopFlag* stop) override {
    if (*static_cast<const std::byte*>(pieces.front().iov_base) == kHeld) co_await released_.wait(engine);
    co_return co_await BlockFile::write(engine, offset, pieces, stop);
  }

 private:
  IoEvent& released_;
};

class Unlinked : public ImageTest {
 protected:
  void expect_clean() {
    const auto file = BlockFile::open(path("disk.qcow2"), {.read_only = true, .lock = false});
    const auto found = engine_->run(check_image(*engine_, *file, {}, why_));
    ASSERT_TRUE(found) << why_;
    EXPECT_EQ(found->corruptions, 0U);
    EXPECT_EQ(found->leaks, 0U);
  }
};

TEST_F(Unlinked, AClusterWhoseDataIsOnItsWayIsNotCountedInTheFile) {
  create("disk.qcow2", 4 << 20, "");
  IoEvent released;
  auto image = open(std::make_unique<HoldingFile>(path("disk.qcow2"),
                                                  std::filesystem::file_size(path("disk.qcow2")), released),
                    Image::Options{});
  ASSERT_NE(image, nullptr) << why_;
  ASSERT_TRUE(write(*image, 0, Bytes(65536, std::byte{0x11})));
  Bytes late(65536, kHeld);
  const iovec piece{late.data(), late.size()};
  bool ended = false;
  image->submit(*engine_,
                {.op = BlockOp::write, .offset = 1 << 20, .length = late.size(), .data = {&piece, 1}},
                [&](Result<void> done) {
                  EXPECT_TRUE(done);
                  ended = true;
                });
  ASSERT_TRUE(flush(*image));
  EXPECT_FALSE(ended);
  expect_clean();

  released.set();
  while (!ended) {
    if (engine_->poll() == 0) engine_->wait();
  }
  ASSERT_TRUE(flush(*image));
  expect_clean();
  EXPECT_EQ(read(*image, 1 << 20, late.size()).value(), late);
  EXPECT_TRUE(engine_->run(image->close(*engine_)));
}

}  // namespace
}  // namespace minivmm::qcow2::test
