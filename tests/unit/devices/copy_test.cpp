#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "devices/block/copy/copy_disk.h"
#include "devices/block/copy/zero.h"
#include "tests/temp_folder.h"

namespace minivmm::test {
namespace {

// A disk in memory whose extents are as told: 'd' data, 'z' zero, '-' nothing, one letter a sector.
class MemoryDisk final : public BlockBackend {
 public:
  explicit MemoryDisk(std::string map) : map_(std::move(map)), bytes_(map_.size() * kSectorSize, '\0') {
    for (size_t i = 0; i < map_.size(); ++i) {
      if (map_[i] == 'd') std::memset(&bytes_[i * kSectorSize], 'x', kSectorSize);
    }
  }
  uint64_t capacity() const override { return bytes_.size(); }
  bool read_only() const override { return false; }
  BlockGeometry geometry() const override { return {}; }
  std::string_view format() const override { return "memory"; }
  Task<Result<void>> run(IoEngine&, BlockRequest request) override {
    ++requests;
    if (fail_at && request.offset <= *fail_at && *fail_at < request.offset + request.length) {
      co_return fail(Errc::io, "a bad sector");
    }
    char* at = &bytes_[request.offset];
    if (request.op == BlockOp::write_zeroes) std::memset(at, 0, request.length);
    for (const iovec& piece : request.data) {
      if (request.op == BlockOp::read) std::memcpy(piece.iov_base, at, piece.iov_len);
      if (request.op == BlockOp::write) std::memcpy(at, piece.iov_base, piece.iov_len);
      at += piece.iov_len;
    }
    co_return Result<void>{};
  }
  Task<Result<BlockExtent>> extent(IoEngine&, uint64_t offset, uint64_t length) override {
    const size_t first = offset / kSectorSize;
    size_t end = first;
    while (end < map_.size() && end < first + length / kSectorSize && map_[end] == map_[first]) ++end;
    using State = BlockExtent::State;
    co_return BlockExtent{.length = (end - first) * kSectorSize,
                          .state = map_[first] == 'd'   ? State::data
                                   : map_[first] == 'z' ? State::zero
                                                        : State::unallocated};
  }
  Task<Result<void>> resize(IoEngine&, uint64_t) override { co_return fail(Errc::unsupported, "fixed"); }
  Task<Result<void>> close(IoEngine&) override { co_return Result<void>{}; }

  std::string& bytes() { return bytes_; }
  std::optional<uint64_t> fail_at;
  std::atomic<unsigned> requests{0};

 private:
  std::string map_;
  std::string bytes_;
};

TEST(Copy, OneBitAnywhereIsNotZero) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{127}, size_t{128}, size_t{129}, size_t{4096}}) {
    std::vector<std::byte> bytes(size + 1);
    const auto part = std::span(bytes).subspan(1);  // at an odd address
    EXPECT_TRUE(is_zero(part));
    for (size_t i = 0; i < size; ++i) {
      part[i] = std::byte{0x40};
      EXPECT_FALSE(is_zero(part)) << i << " of " << size;
      part[i] = std::byte{};
    }
  }
}

PieceKind classify(const BlockExtent& extent) {
  return extent.state == BlockExtent::State::data   ? PieceKind::data
         : extent.state == BlockExtent::State::zero ? PieceKind::zero
                                                    : PieceKind::skip;
}

// "0+4 data, 4+2 zero" in sectors.
std::string cut(const std::string& map, uint64_t align, uint64_t step) {
  const auto engine = IoEngine::create();
  MemoryDisk disk(map);
  PieceCutter cutter(disk, {.length = disk.capacity(),
                            .align = align * kSectorSize,
                            .step = step * kSectorSize,
                            .classify = classify});
  std::string out;
  for (;;) {
    const auto piece = engine->run(cutter.next(*engine));
    if (!piece || !*piece) return out;
    out += (out.empty() ? "" : ", ") + std::to_string((*piece)->offset / kSectorSize) + "+" +
           std::to_string((*piece)->length / kSectorSize) +
           ((*piece)->kind == PieceKind::data   ? " data"
            : (*piece)->kind == PieceKind::zero ? " zero"
                                                : " skip");
  }
}

TEST(Copy, PiecesFollowTheExtents) {
  EXPECT_EQ(cut("ddddzz--", 1, 8), "0+4 data, 4+2 zero, 6+2 skip");
  EXPECT_EQ(cut("dddddddd", 1, 3), "0+3 data, 3+3 data, 6+2 data");
  EXPECT_EQ(cut("zzzzzzzz", 1, 3), "0+8 zero");
  EXPECT_EQ(cut("", 1, 3), "");
}

TEST(Copy, PiecesAreWholeUnitsAndWhatIsMixedIsData) {
  EXPECT_EQ(cut("dzzzzzzz", 4, 8), "0+4 data, 4+4 zero");
  EXPECT_EQ(cut("zzzzzzd-", 4, 8), "0+4 zero, 4+4 data");
  EXPECT_EQ(cut("zz--zz--", 4, 8), "0+8 data");
  EXPECT_EQ(cut("dzdzd", 4, 4), "0+4 data, 4+1 data");
  EXPECT_EQ(cut("zzzzzz", 4, 8), "0+6 zero");
}

TEST(Copy, EveryPieceIsWorkedOnOnceByAnyNumberOfThreads) {
  for (const unsigned threads : {1U, 3U, 16U}) {
    MemoryDisk disk(std::string(1000, 'd') + std::string(500, '-') + std::string(500, 'z'));
    PieceCutter cutter(disk, {.length = disk.capacity(), .step = 8 * kSectorSize, .classify = classify});
    std::mutex mutex;
    std::multiset<uint64_t> offsets;
    const PieceWork work = [&](IoEngine&, unsigned thread, const Piece& piece,
                               std::span<std::byte> buffer) -> Task<Result<void>> {
      const std::scoped_lock lock(mutex);
      EXPECT_LT(thread, threads);
      EXPECT_EQ(buffer.size(), 8 * kSectorSize);
      offsets.insert(piece.offset);
      co_return Result<void>{};
    };
    uint64_t last = 0;
    ASSERT_TRUE(sweep(cutter, 8 * kSectorSize, work,
                      {.threads = threads, .progress = [&](uint64_t done) { last = done; }}));
    EXPECT_EQ(offsets.size(), 125U + 1U);
    EXPECT_EQ(std::set<uint64_t>(offsets.begin(), offsets.end()).size(), offsets.size());
    EXPECT_LE(last, disk.capacity());
  }
}

TEST(Copy, OnlyWhatIsThereIsRead) {
  MemoryDisk from("dd" + std::string(10000, '-'));
  MemoryDisk to(std::string(10002, '-'));
  ASSERT_TRUE(copy_disk(from, to, {.unit = kSectorSize, .target_is_zero = true}));
  EXPECT_TRUE(from.bytes() == to.bytes());
  EXPECT_EQ(from.requests, 1U);
  EXPECT_EQ(to.requests, 1U);
}

TEST(Copy, ATargetThatIsNotNewIsZeroedToo) {
  MemoryDisk from("dd--zzdd");
  MemoryDisk to("dddddddd");
  to.bytes().assign(to.bytes().size(), 'o');
  ASSERT_TRUE(copy_disk(from, to, {.unit = kSectorSize}));
  EXPECT_TRUE(from.bytes() == to.bytes());
}

TEST(Copy, TheFirstErrorEndsIt) {
  MemoryDisk from(std::string(100000, 'd'));
  MemoryDisk to(std::string(100000, '-'));
  from.fail_at = 5000;
  const auto copied = copy_disk(from, to, {.sweep = {.threads = 2}});
  ASSERT_FALSE(copied);
  EXPECT_EQ(copied.error().code, Errc::io);
  EXPECT_STREQ(copied.error().what, "a bad sector");
}

TEST(Copy, ACancelledOneStops) {
  MemoryDisk from(std::string(1000, 'd'));
  MemoryDisk to(std::string(1000, '-'));
  const std::atomic<bool> cancelled{true};
  const auto copied = copy_disk(from, to, {.sweep = {.cancelled = &cancelled}});
  ASSERT_FALSE(copied);
  EXPECT_EQ(copied.error().code, Errc::closed);
  EXPECT_EQ(to.requests, 0U);
}

}  // namespace
}  // namespace minivmm::test
