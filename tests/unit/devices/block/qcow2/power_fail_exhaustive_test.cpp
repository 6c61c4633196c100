// Every short sequence of operations on small images, and of each every state in which a crash may leave the
// files, by sectors of 512 bytes: the image is sound, and holds what was flushed. docs/qcow2.md, I1 to I5.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "devices/block/qcow2/check.h"
#include "tests/unit/devices/block/crash_states.h"
#include "tests/unit/devices/block/qcow2/crash_history.h"
#include "tests/unit/devices/block/qcow2/image_fixture.h"

namespace minivmm::qcow2::test {
namespace {

using minivmm::test::BlockLog;
using minivmm::test::CrashStates;
using minivmm::test::FileBytes;
using minivmm::test::for_each_choice;
using minivmm::test::LogClock;
using minivmm::test::LoggedFile;
using minivmm::test::memory_block_file;

constexpr uint64_t kSector = 512;

// MINIVMM_POWER_FAIL=long: longer sequences.
bool long_form() {
  const char* form = std::getenv("MINIVMM_POWER_FAIL");  // NOLINT(concurrency-mt-unsafe): no other thread yet
  return form != nullptr && std::string_view(form) == "long";
}

// What a sequence is made of. `w` and `e` go on to a new place each time.
//   w  write across two new clusters        o  write across two old clusters
//   e  write where a new L2 table is due    z  write zeroes over two old clusters, one of them written by o
//   d  discard three old clusters           f  flush
//   g  grow the disk so far that the L1 table needs another cluster
struct Shape {
  const char* name;
  const char* options;
  uint64_t cluster;
  uint64_t filled;     // guest clusters that are written at first: few are left in the first refcount block
  uint64_t elsewhere;  // the guest cluster with another L2 table
  uint64_t growth;     // bytes
  const char* alphabet = "woezdfg";
  enum class Start : uint8_t { plain, snapshot, compressed, long_file } start = Start::plain;
  size_t longest = 3;  // sequence; one more in the long form
};

class PowerFailExhaustive : public ImageTest, public testing::WithParamInterface<Shape> {
 protected:
  bool has(const char* option) const {
    return std::string_view(GetParam().options).find(option) != std::string_view::npos;
  }
  uint64_t cluster_sectors() const { return GetParam().cluster / kSector; }

  // The sectors that are looked at: those from the disk's start, and those elsewhere.
  uint64_t low_sectors() const { return (GetParam().filled + 10) * cluster_sectors(); }
  uint64_t high_sectors() const { return 6 * cluster_sectors(); }
  uint64_t elsewhere() const { return GetParam().elsewhere * cluster_sectors(); }
  uint64_t watched() const { return low_sectors() + high_sectors(); }
  uint64_t index_of(uint64_t sector) const {
    return sector < low_sectors() ? sector : low_sectors() + sector - elsewhere();
  }

  static Bytes stamped(uint64_t count, uint64_t stamp) {
    Bytes bytes(count * kSector);
    for (uint64_t at = 0; at < bytes.size(); at += kSector) std::memcpy(bytes.data() + at, &stamp, 8);
    return bytes;
  }
  FileBytes contents_of(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    const std::vector<char> chars{std::istreambuf_iterator<char>(file), {}};
    const auto bytes = std::as_bytes(std::span(chars));
    return {bytes.begin(), bytes.end()};
  }
  Image::Options with_data(std::unique_ptr<BlockFile> data, bool read_only) const {
    Image::Options options;
    options.read_only = read_only;
    options.data_file = std::move(data);
    return options;
  }

  // The image that every sequence begins with.
  void make_start() {
    const Shape& shape = GetParam();
    create("disk.qcow2", (shape.elsewhere + 8) * shape.cluster, shape.options);
    auto image = open("disk.qcow2",
                      with_data(has("data_file") ? BlockFile::open(path("data.raw"), {}) : nullptr, false));
    ASSERT_NE(image, nullptr) << why_;
    ASSERT_TRUE(write(*image, 0, stamped(shape.filled * cluster_sectors(), kFirstStamp)));
    ASSERT_TRUE(close(*image));
    image.reset();
    if (shape.start == Shape::Start::snapshot) {
      ASSERT_EQ(shell("qemu-img snapshot -c kept disk.qcow2"), 0);
    }
    if (shape.start == Shape::Start::compressed) {
      ASSERT_EQ(shell(fmt::format("qemu-img convert -c -O qcow2 -o {} disk.qcow2 small.qcow2 && "
                                  "mv small.qcow2 disk.qcow2",
                                  shape.options)),
                0);
    }
    start_image_ = contents_of("disk.qcow2");
    // So long that what is put at its end needs a larger refcount table.
    const uint64_t counted = shape.cluster / 8 * shape.cluster / 8;
    if (shape.start == Shape::Start::long_file) start_image_.resize((counted - 6) * shape.cluster);
    if (has("data_file")) start_data_ = contents_of("data.raw");
  }

  // One sequence, from the start.
  struct Run {
    std::shared_ptr<LogClock> clock = std::make_shared<LogClock>();
    std::shared_ptr<BlockLog> log, data_log;
    std::unique_ptr<Image> image;
    History history;
    uint64_t stamp = kFirstStamp;
    uint64_t written = 0, written_elsewhere = 0;
    explicit Run(uint64_t sectors) : history(sectors) {}
  };

  void change(Run& run, BlockOp op, uint64_t sector, uint64_t count) {
    const uint64_t begun = run.clock->tick();
    Result<void> done;
    uint64_t stamp = 0;
    if (op == BlockOp::write) {
      stamp = ++run.stamp;
      done = write(*run.image, sector * kSector, stamped(count, stamp));
    } else {
      done = this->run(*run.image,
                       {.op = op, .offset = sector * kSector, .length = count * kSector, .may_unmap = true});
    }
    ASSERT_TRUE(done) << done.error().what;
    const uint64_t ended = run.clock->tick();
    for (uint64_t at = sector; at < sector + count; ++at) {
      if (op == BlockOp::discard) {  // what is read now, is what it was or nothing
        const auto now = read(*run.image, at * kSector, kSector);
        ASSERT_TRUE(now);
        std::memcpy(&stamp, now->data(), 8);
      }
      run.history.add(index_of(at), 1, stamp, begun, ended);
    }
  }
  void apply(Run& run, char what) {
    const uint64_t cluster = cluster_sectors();
    switch (what) {
      case 'w':
        change(run, BlockOp::write, (GetParam().filled + 2 * run.written++ + 1) * cluster - 1, 2);
        break;
      case 'o': change(run, BlockOp::write, 3 * cluster - 1, 2); break;
      case 'e': change(run, BlockOp::write, elsewhere() + run.written_elsewhere++ * cluster, 1); break;
      case 'z': change(run, BlockOp::write_zeroes, 3 * cluster, 2 * cluster); break;
      case 'd': change(run, BlockOp::discard, cluster, 3 * cluster); break;
      case 'g': {
        const auto done =
            engine_->run(run.image->resize(*engine_, run.image->capacity() + GetParam().growth));
        ASSERT_TRUE(done) << done.error().what;
        break;
      }
      default: {
        const uint64_t begun = run.clock->tick();
        ASSERT_TRUE(flush(*run.image));
        run.history.flushed(begun, run.clock->tick());
      }
    }
  }

  // What a state of the files holds, judged once however often it comes up.
  struct Verdict {
    std::string problem;
    size_t contents = 0;  // in stamps_
  };
  Verdict judge(const FileBytes& bytes, const FileBytes& data) {
    const bool lazy = has("lazy");
    ++judged_;
    if (!lazy) {
      const auto file = memory_block_file(bytes, true);
      const auto found = engine_->run(check_image(*engine_, *file, {}, why_));
      if (!found) return {"it cannot be checked: " + why_, 0};
      if (found->corruptions != 0) return {found->messages.front(), 0};
    }
    const auto image = open(memory_block_file(bytes, !lazy),
                            with_data(has("data_file") ? memory_block_file(data, true) : nullptr, !lazy));
    if (!image) return {"it cannot be opened: " + why_, 0};
    auto found = read(*image, 0, low_sectors() * kSector);
    const auto high = read(*image, elsewhere() * kSector, high_sectors() * kSector);
    if (!found || !high) return {"it cannot be read", 0};
    found->insert(found->end(), high->begin(), high->end());
    std::vector<uint64_t> stamps(watched());
    for (uint64_t i = 0; i < stamps.size(); ++i) std::memcpy(&stamps[i], found->data() + i * kSector, 8);
    if (lazy && !close(*image)) return {"it cannot be closed", 0};
    const auto [place, is_new] = contents_.try_emplace(std::move(stamps), contents_.size());
    if (is_new) stamps_.push_back(&place->first);
    return {"", place->second};
  }

  // All states after event `when`.
  void judge_states(const Run& run, uint64_t when, const std::string& what) {
    const CrashStates image(*run.log, when);
    const CrashStates data(*run.data_log, when);
    std::vector<size_t> choices = image.choices();
    choices.insert(choices.end(), data.choices().begin(), data.choices().end());
    std::unordered_set<size_t> allowed;  // contents that were looked at for this `when`
    const bool all = for_each_choice(choices, most_, [&](std::span<const size_t> choice) {
      ++states_;
      const auto image_choice = choice.first(image.choices().size());
      const auto data_choice = choice.subspan(image_choice.size());
      const uint64_t key = image.key(image_choice) * 0x9e3779b97f4a7c15 + data.key(data_choice);
      auto known = verdicts_.find(key);
      if (known == verdicts_.end())
        known = verdicts_.emplace(key, judge(image.state(image_choice), data.state(data_choice))).first;
      const Verdict& verdict = known->second;
      if (!verdict.problem.empty()) {
        if (problems_++ < 3) ADD_FAILURE() << what << ", at " << when << ": " << verdict.problem;
        return;
      }
      if (allowed.insert(verdict.contents).second) check_contents(run, when, what, verdict.contents);
    });
    ++(all ? exhaustive_ : sampled_);
  }
  void check_contents(const Run& run, uint64_t when, const std::string& what, size_t contents) {
    const std::vector<uint64_t>& stamps = *stamps_[contents];
    for (uint64_t i = 0; i < stamps.size(); ++i) {
      if (run.history.allows(i, stamps[i], when)) continue;
      if (problems_++ < 3)
        ADD_FAILURE() << what << ", at " << when << ": watched sector " << i << " is " << stamps[i];
      return;
    }
  }

  void try_sequence(const std::string& sequence) {
    Run run(watched());
    run.log = std::make_shared<BlockLog>(start_image_, run.clock);
    run.data_log = std::make_shared<BlockLog>(start_data_, run.clock);
    for (uint64_t sector = 0; sector < GetParam().filled * cluster_sectors(); ++sector)
      run.history.add(sector, 1, kFirstStamp, 0, 0);
    run.history.flushed(0, 0);
    run.image =
        open(std::make_unique<LoggedFile>(run.log),
             with_data(has("data_file") ? std::make_unique<LoggedFile>(run.data_log) : nullptr, false));
    ASSERT_NE(run.image, nullptr) << why_;
    uint64_t begun = 0;
    for (const char what : sequence) {
      begun = run.clock->tick();
      apply(run, what);
      if (HasFatalFailure()) return;
    }
    const uint64_t closing = run.clock->tick();
    ASSERT_TRUE(close(*run.image));
    run.history.flushed(closing, run.clock->tick());
    run.image.reset();

    // What may be lost grows until a sync ends: the states just before that are all there were since the one
    // before. Those before the last operation are the shorter sequence's.
    std::vector<uint64_t> times;
    for (const auto& log : {run.log, run.data_log})
      for (const BlockLog::Sync& sync : log->syncs())
        if (sync.done > begun) times.push_back(sync.done - 1);
    times.push_back(run.clock->now());
    for (const uint64_t when : times) judge_states(run, when, sequence);
  }
  void try_all(size_t length, const std::string& sequence = "") {
    if (HasFatalFailure() || problems_ >= 3) return;
    if (!sequence.empty()) try_sequence(sequence);
    if (sequence.size() == length) return;
    for (const char* what = GetParam().alphabet; *what != '\0'; ++what) try_all(length, sequence + *what);
  }

  static constexpr uint64_t kFirstStamp = 1'000'000;

  FileBytes start_image_, start_data_;
  std::unordered_map<uint64_t, Verdict> verdicts_;
  std::map<std::vector<uint64_t>, size_t> contents_;  // of the watched sectors
  std::vector<const std::vector<uint64_t>*> stamps_;  // the same by number
  uint64_t most_ = long_form() ? 1 << 16 : 1 << 12;   // states between two syncs that are all tried
  uint64_t states_ = 0, judged_ = 0;
  uint64_t exhaustive_ = 0, sampled_ = 0;  // times between two syncs
  unsigned problems_ = 0;
};

TEST_P(PowerFailExhaustive, NoStateOfAnyShortSequenceIsUnsoundOrForgetsWhatWasFlushed) {
  make_start();
  ASSERT_FALSE(HasFatalFailure());
  try_all(GetParam().longest + (long_form() ? 1 : 0));
  std::printf("%llu times between syncs, %llu of them with all their states; %llu states, %llu different\n",
              static_cast<unsigned long long>(exhaustive_ + sampled_),
              static_cast<unsigned long long>(exhaustive_), static_cast<unsigned long long>(states_),
              static_cast<unsigned long long>(judged_));
  EXPECT_GT(exhaustive_, 0U);
  if (!long_form()) {
    EXPECT_EQ(sampled_, 0U);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, PowerFailExhaustive,
    testing::Values(
        Shape{"Version3", "cluster_size=512,refcount_bits=64", 512, 54, 64, 2 << 20},
        Shape{"Version2", "compat=0.10,cluster_size=512", 512, 245, 256, 2 << 20, "woezdf"},
        Shape{"Extended", "extended_l2=on,cluster_size=16k", 16384, 4, 14, 0, "wozdf"},
        Shape{"DataFile", "data_file=data.raw,cluster_size=512,refcount_bits=64", 512, 20, 64, 2 << 20},
        Shape{"Lazy", "lazy_refcounts=on,cluster_size=512,refcount_bits=64", 512, 54, 64, 2 << 20},
        Shape{"Snapshot", "cluster_size=512,refcount_bits=64", 512, 51, 64, 2 << 20, "woezdfg",
              Shape::Start::snapshot},
        Shape{"RefcountTable", "cluster_size=512,refcount_bits=64", 512, 54, 64, 2 << 20, "gwf",
              Shape::Start::long_file, 2},
        Shape{"Compressed", "compat=0.10,cluster_size=512", 512, 40, 64, 1 << 20, "woezdf",
              Shape::Start::compressed}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace minivmm::qcow2::test
