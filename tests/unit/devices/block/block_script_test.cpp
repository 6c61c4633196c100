#include "devices/block/block_script.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "devices/block/block_file.h"
#include "tests/temp_folder.h"

namespace minivmm {
namespace {

using Bytes = std::vector<std::byte>;

class BlockScriptTest : public testing::TestWithParam<CacheMode> {
 protected:
  void SetUp() override {
    try {
      file_ = BlockFile::open(path_, {.cache = GetParam(), .create = true});
    } catch (const HostError& error) {
      GTEST_SKIP() << error.what();  // a file system without O_DIRECT
    }
  }
  Bytes pattern(uint64_t length) {
    Bytes bytes(length);
    for (std::byte& each : bytes) each = static_cast<std::byte>(random_());
    return bytes;
  }
  void write(uint64_t offset, const Bytes& bytes) {
    const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};  // only read from
    ASSERT_TRUE(engine_->run(file_->write(*engine_, offset, std::span(&piece, 1))));
  }
  Bytes read(uint64_t length) {
    Bytes bytes(length);
    const iovec piece{bytes.data(), bytes.size()};
    EXPECT_TRUE(engine_->run(file_->read(*engine_, 0, std::span(&piece, 1))));
    return bytes;
  }

  test::TempFolder folder_;
  std::string path_ = (folder_.path() / "file").string();
  std::unique_ptr<IoEngine> engine_ = IoEngine::create();
  std::unique_ptr<BlockFile> file_;
  std::mt19937 random_{11};
};

TEST_P(BlockScriptTest, WritesPhaseAfterPhase) {
  Bytes model = pattern(100'000);
  write(0, model);
  BlockScript script;
  for (int i = 0; i < 4; ++i) {
    BlockScript::Phase phase;
    phase.sync = i % 2 == 0;
    for (int j = 0; j < i * 3; ++j) {  // none in the first
      const uint64_t offset = random_() % 90'000;
      phase.writes.push_back({offset, pattern(1 + random_() % 9'000)});
    }
    script.phases.push_back(phase);
  }
  for (const auto& phase : script.phases) {
    for (const auto& each : phase.writes)
      std::ranges::copy(each.bytes, model.begin() + static_cast<std::ptrdiff_t>(each.offset));
  }
  ASSERT_TRUE(engine_->run(file_->run_script(*engine_, script)));
  EXPECT_EQ(script.written, 4U);
  EXPECT_EQ(script.ended, 4U);
  EXPECT_EQ(read(model.size()), model);
}

TEST_P(BlockScriptTest, GrowsTheFile) {
  BlockScript script;
  script.phases.resize(2);
  script.phases[0].writes.push_back({0, pattern(10)});
  script.phases[1].writes.push_back({300'000, pattern(5000)});
  ASSERT_TRUE(engine_->run(file_->run_script(*engine_, script)));
  const uint64_t block = file_->alignment();
  EXPECT_EQ(file_->size(), (305'000 + block - 1) / block * block);
  EXPECT_EQ(file_->measure(), file_->size());
}

TEST_P(BlockScriptTest, SharesItsBlocksWithWritesBesideIt) {
  write(0, Bytes(1 << 16));
  BlockScript script;
  script.phases.resize(2);
  Bytes model(1 << 16);
  std::vector<Bytes> others;
  for (uint64_t offset = 0; offset < model.size(); offset += 1024) {
    script.phases[offset / 1024 % 2].writes.push_back({offset, Bytes(512, std::byte{1})});
    std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(offset), 512, std::byte{1});
    std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(offset) + 512, 512, std::byte{2});
    others.emplace_back(512, std::byte{2});
  }
  unsigned left = 1;
  const auto ended = [&left](Result<void> done) {
    EXPECT_TRUE(done);
    --left;
  };
  std::vector<iovec> pieces;
  pieces.reserve(others.size());
  for (Bytes& bytes : others) pieces.push_back({bytes.data(), bytes.size()});
  const auto write_half = [&](size_t from) {
    for (size_t i = from; i < pieces.size(); i += 2) {
      ++left;
      spawn(file_->write(*engine_, i * 1024 + 512, std::span(&pieces[i], 1)), ended);
    }
  };
  write_half(0);
  spawn(file_->run_script(*engine_, script), ended);
  write_half(1);
  while (left > 0) {
    if (engine_->poll() == 0 && left > 0) engine_->wait();
  }
  EXPECT_EQ(read(model.size()), model);
}

TEST_P(BlockScriptTest, SaysHowFarItCame) {
  write(0, pattern(4096));
  BlockScript script;
  script.phases.resize(3);
  script.phases[0].writes.push_back({0, pattern(16)});
  script.phases[0].sync = true;
  script.phases[1].writes.push_back({uint64_t{1} << 63, pattern(16)});  // no file has so much
  script.phases[2].writes.push_back({64, pattern(16)});
  const Bytes before = read(4096);
  const Result<void> done = engine_->run(file_->run_script(*engine_, script));
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, Errc::io);
  EXPECT_EQ(script.written, 1U);
  EXPECT_EQ(script.ended, 1U);
  const Bytes after = read(4096);
  EXPECT_TRUE(std::equal(after.begin() + 16, after.end(), before.begin() + 16));
}

INSTANTIATE_TEST_SUITE_P(Caches, BlockScriptTest,
                         testing::Values(CacheMode::writeback, CacheMode::none, CacheMode::unsafe),
                         [](const auto& one) {
                           return one.param == CacheMode::none     ? "None"
                                  : one.param == CacheMode::unsafe ? "Unsafe"
                                                                   : "Writeback";
                         });

}  // namespace
}  // namespace minivmm
