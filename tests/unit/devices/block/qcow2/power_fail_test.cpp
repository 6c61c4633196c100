// A crash at every instant of random work: the image is sound, and holds what was flushed. docs/qcow2.md, I1
// to I5.
#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <set>

#include "devices/block/qcow2/check.h"
#include "tests/unit/devices/block/logged_file.h"
#include "tests/unit/devices/block/qcow2/crash_history.h"
#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

using minivmm::test::BlockLog;
using minivmm::test::LoggedFile;
using minivmm::test::memory_block_file;

constexpr uint64_t kSector = 512;

struct Shape {
  const char* name;
  const char* options;
  uint64_t size;
  bool snapshot = false;
};

class PowerFail : public ImageTest, public testing::WithParamInterface<Shape> {
 protected:
  void start() {
    const Shape& shape = GetParam();
    create("disk.qcow2", shape.size, shape.options);
    if (shape.snapshot) {
      ASSERT_EQ(shell(fmt::format("qemu-io -c 'write -P 0 0 {}' disk.qcow2", shape.size / 2)), 0);
      ASSERT_EQ(shell("qemu-img snapshot -c kept disk.qcow2"), 0);
    }
    std::ifstream file(path("disk.qcow2"), std::ios::binary);
    const std::vector<char> chars{std::istreambuf_iterator<char>(file), {}};
    const auto bytes = std::as_bytes(std::span(chars));
    log_ = std::make_shared<BlockLog>(minivmm::test::FileBytes(bytes.begin(), bytes.end()));
    image_ = open(std::make_unique<LoggedFile>(log_), Image::Options{});
    ASSERT_NE(image_, nullptr) << why_;
  }

  static Bytes stamped(uint64_t count, uint64_t stamp) {
    Bytes bytes(count * kSector);
    for (uint64_t at = 0; at < bytes.size(); at += 8) std::memcpy(bytes.data() + at, &stamp, 8);
    return bytes;
  }

  void step() {
    const uint64_t count = 1 + random_() % 24;
    const uint64_t first = random_() % (history_.size() - count + 1);
    const uint64_t offset = first * kSector;
    const uint64_t length = count * kSector;
    const uint64_t begun = log_->now() + 1;
    switch (random_() % 8) {
      case 0:
      case 1:
        ASSERT_TRUE(flush(*image_));
        history_.flushed(begun - 1, log_->now());
        break;
      case 2:
        ASSERT_TRUE(run(*image_, {.op = BlockOp::write_zeroes,
                                  .offset = offset,
                                  .length = length,
                                  .may_unmap = random_() % 2 == 0}));
        history_.add(first, count, 0, begun, log_->now());
        break;
      case 3: {
        // The contents are the old ones or what the format gives: here always zeroes.
        ASSERT_TRUE(run(*image_, {.op = BlockOp::discard, .offset = offset, .length = length}));
        const auto now = read(*image_, offset, length);
        ASSERT_TRUE(now);
        for (uint64_t i = 0; i < count; ++i) {
          uint64_t stamp = 0;
          std::memcpy(&stamp, now->data() + i * kSector, 8);
          history_.add(first + i, 1, stamp, begun, log_->now());
        }
        break;
      }
      default:
        ++stamp_;
        ASSERT_TRUE(write(*image_, offset, stamped(count, stamp_)));
        history_.add(first, count, stamp_, begun, log_->now());
    }
  }

  // Several requests at once, each with a part of the disk to itself, while a flush is under way.
  void batch() {
    constexpr uint64_t kParts = 4;
    struct Part {
      uint64_t first = 0, count = 0, stamp = 0, begun = 0, done = 0;
      bool discards = false;
      Bytes bytes;
      iovec piece{};
    };
    std::array<Part, kParts> parts;
    unsigned left = kParts + 1;
    const uint64_t flush_begun = log_->tick();
    image_->submit(*engine_, {.op = BlockOp::flush}, [&](Result<void> done) {
      EXPECT_TRUE(done);
      history_.flushed(flush_begun, log_->tick());
      --left;
    });
    for (uint64_t i = 0; i < kParts; ++i) {
      Part& part = parts[i];
      const uint64_t room = history_.size() / kParts;
      part.count = 1 + random_() % 16;
      part.first = i * room + random_() % (room - part.count + 1);
      part.begun = log_->tick();
      BlockRequest request{
          .op = BlockOp::write, .offset = part.first * kSector, .length = part.count * kSector};
      switch (random_() % 4) {
        case 0:
          request.op = BlockOp::write_zeroes;
          request.may_unmap = true;
          break;
        case 1:
          request.op = BlockOp::discard;
          part.discards = true;
          break;
        default:
          part.stamp = ++stamp_;
          part.bytes = stamped(part.count, part.stamp);
          part.piece = {part.bytes.data(), part.bytes.size()};
          request.data = {&part.piece, 1};
      }
      image_->submit(*engine_, request, [&, i](Result<void> done) {
        EXPECT_TRUE(done);
        parts[i].done = log_->tick();
        --left;
      });
    }
    while (left > 0)
      if (engine_->poll() == 0) engine_->wait();
    for (const Part& part : parts) {
      for (uint64_t at = part.first; at < part.first + part.count; ++at) {
        uint64_t stamp = part.stamp;
        if (part.discards) {
          const auto now = read(*image_, at * kSector, kSector);
          ASSERT_TRUE(now);
          std::memcpy(&stamp, now->data(), 8);
        }
        history_.add(at, 1, stamp, part.begun, part.done);
      }
    }
  }

  // The state is sound, and holds what it must.
  void judge(const Bytes& state, uint64_t when, const std::string& what) {
    const bool lazy = std::string(GetParam().options).find("lazy") != std::string::npos;
    const auto file = memory_block_file(state, false);
    if (!lazy) {
      const auto result = engine_->run(check_image(*engine_, *file, {}, why_));
      ASSERT_TRUE(result) << what << ": " << why_;
      ASSERT_EQ(result->corruptions, 0U)
          << what << ": " << (result->messages.empty() ? "" : result->messages.front());
    }
    Image::Options options;
    options.read_only = !lazy;
    const auto image = open(memory_block_file(state, !lazy), std::move(options));
    ASSERT_NE(image, nullptr) << what << ": " << why_;
    const auto bytes = read(*image, 0, history_.size() * kSector);
    ASSERT_TRUE(bytes) << what;
    for (uint64_t sector = 0; sector < history_.size(); ++sector) {
      uint64_t stamp = 0;
      std::memcpy(&stamp, bytes->data() + sector * kSector, 8);
      ASSERT_TRUE(history_.allows(sector, stamp, when)) << what << ": sector " << sector << " is " << stamp;
    }
    if (lazy) {  // the counts were rebuilt
      ASSERT_TRUE(close(*image));
    }
  }

  void judge_all() {
    for (uint64_t when = 0; when <= log_->now() && !HasFatalFailure(); ++when) {
      const auto open_writes = log_->volatile_writes(when);
      const auto none = [](size_t) { return false; };
      judge(log_->after_crash(when, none), when, fmt::format("killed at {}", when));
      const auto all = [](size_t) { return true; };
      judge(log_->after_crash(when, all), when, fmt::format("at {}, losing all", when));
      for (int i = 0; i < 2 && !open_writes.empty(); ++i) {
        std::set<size_t> lost;
        for (const size_t write : open_writes)
          if (random_() % 2 == 0) lost.insert(write);
        const auto some = [&](size_t write) { return lost.contains(write); };
        judge(log_->after_crash(when, some), when, fmt::format("at {}, losing some", when));
      }
    }
  }

  std::mt19937_64 random_{7};
  std::shared_ptr<BlockLog> log_;
  std::unique_ptr<Image> image_;
  History history_{GetParam().size / kSector};
  uint64_t stamp_ = 0;
};

TEST_P(PowerFail, LeavesASoundImageWithAllThatWasFlushed) {
  start();
  for (int i = 0; i < 60 && !HasFatalFailure(); ++i) step();
  ASSERT_TRUE(close(*image_));
  history_.flushed(log_->now(), log_->now());
  judge_all();
}

TEST_P(PowerFail, LeavesASoundImageWhileACommitIsUnderWay) {
  start();
  for (int i = 0; i < 18 && !HasFatalFailure(); ++i) batch();
  ASSERT_TRUE(close(*image_));
  history_.flushed(log_->now(), log_->now());
  judge_all();
}

INSTANTIATE_TEST_SUITE_P(Shapes, PowerFail,
                         testing::Values(Shape{"Small", "cluster_size=512,refcount_bits=64", 64 << 10},
                                         Shape{"SmallRefcounts1", "cluster_size=512,refcount_bits=1",
                                               64 << 10},
                                         Shape{"FourKiB", "cluster_size=4096", 256 << 10},
                                         Shape{"Version2", "compat=0.10,cluster_size=1024", 128 << 10},
                                         Shape{"Extended", "extended_l2=on,cluster_size=16k", 256 << 10},
                                         Shape{"Snapshot", "cluster_size=1024", 128 << 10, true},
                                         Shape{"Lazy", "lazy_refcounts=on,cluster_size=1024", 128 << 10}),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace minivmm::qcow2::test
