#include <gtest/gtest.h>

#include <filesystem>

#include "devices/block/raw.h"
#include "tests/temp_folder.h"

namespace minivmm {
namespace {

TEST(RawImage, NoticesThatItsFileHasGrownByOtherHands) {
  const test::TempFolder folder;
  const std::string path = (folder.path() / "disk.img").string();
  {
    const auto created = BlockFile::open(path, {.create = true})->resize(1 << 20);
    ASSERT_TRUE(created);
  }
  const auto engine = IoEngine::create();
  const auto disk = RawImage::open(path, {});
  std::filesystem::resize_file(path, (2 << 20) + 100);
  EXPECT_EQ(disk->capacity(), 1U << 20);
  EXPECT_TRUE(engine->run(disk->refresh(*engine)));
  EXPECT_EQ(disk->capacity(), 2U << 20);
  std::filesystem::resize_file(path, 512);  // what the guest was told it has, it keeps
  EXPECT_TRUE(engine->run(disk->refresh(*engine)));
  EXPECT_EQ(disk->capacity(), 2U << 20);
}

}  // namespace
}  // namespace minivmm
