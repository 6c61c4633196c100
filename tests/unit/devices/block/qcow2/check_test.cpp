#include "devices/block/qcow2/check.h"

#include <fcntl.h>

#include <filesystem>
#include <functional>
#include <ostream>

#include "devices/block/qcow2/create.h"
#include "image_files.h"

namespace minivmm::qcow2 {

namespace {

constexpr uint64_t kCluster = 65536;

// An image with data, a snapshot that shares some of it, zeroes and compressed clusters.
class Qcow2Check : public test::ImageFiles {
 protected:
  std::string busy(const std::string& options = "compat=1.1") {
    const std::string compressed = options.find("2M") != std::string::npos ? "2M" : "64k";  // whole clusters
    std::string image = make("busy.qcow2", options, "100M",
                             {"write -P 1 0 1M", "write -P 2 600k 3M", "write -z 8M 1M", "write -P 3 50M 64k",
                              "write -c -P 4 60M " + compressed, "write -c -P 5 64M " + compressed});
    EXPECT_EQ(test::run_program({"qemu-img", "snapshot", "-c", "one", image}).status, 0);
    EXPECT_EQ(test::run_program({"qemu-io", "-f", "qcow2", "-c", "write -P 6 128k 300k", image}).status, 0);
    return image;
  }
  // As it was, but with simple means to address its parts.
  std::string plain(const std::string& options = "compat=1.1") {
    return make("plain.qcow2", options, "100M", {"write -P 1 0 1M"});
  }
  uint64_t count_at(const std::string& image, uint64_t cluster) { return first_block(image) + cluster * 2; }
  void set_count(const std::string& image, uint64_t offset, uint8_t count) {
    poke(image, count_at(image, offset / kCluster), {0, count});
  }
  static void add_cluster(const std::string& image) {
    const auto size = (std::filesystem::file_size(image) + kCluster - 1) / kCluster * kCluster;
    std::filesystem::resize_file(image, size + kCluster);
  }
  static bool same_content(const std::string& a, const std::string& b) {
    const auto compared = test::run_program({"qemu-img", "compare", a, b});
    return compared.status == 0;
  }
};

TEST_F(Qcow2Check, FindsNothingWrongWithQemusImages) {
  for (const char* options :
       {"compat=0.10", "compat=1.1", "cluster_size=512", "cluster_size=2M",
        "refcount_bits=32,cluster_size=4k", "refcount_bits=64,cluster_size=1k",
        "extended_l2=on,cluster_size=16k", "compression_type=zstd", "lazy_refcounts=on"}) {
    SCOPED_TRACE(options);
    expect_clean(busy(options));
    std::filesystem::remove(path("busy.qcow2"));
  }
}

TEST_F(Qcow2Check, FindsNothingWrongWithBitmapsAndDataFiles) {
  const std::string bitmaps = plain();
  ASSERT_EQ(test::run_program({"qemu-img", "bitmap", "--add", "-g", "65536", bitmaps, "b0"}).status, 0);
  ASSERT_EQ(test::run_program({"qemu-img", "bitmap", "--add", bitmaps, "another"}).status, 0);
  ASSERT_EQ(test::run_program({"qemu-io", "-f", "qcow2", "-c", "write 2M 20M", bitmaps}).status, 0);
  expect_clean(bitmaps);
  expect_clean(
      make("external.qcow2", "data_file=" + path("data.raw"), "10M", {"write -P 1 0 1M", "write 5M 64k"}));
}

TEST_F(Qcow2Check, RefusesWhatIsNoImage) {
  const std::string file = path("noise");
  std::filesystem::copy_file("/proc/self/exe", file);
  const auto opened = BlockFile::open(file, {.read_only = true});
  std::string why;
  const auto result = engine_->run(check_image(*engine_, *opened, {}, why));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::corrupt);
  EXPECT_EQ(why, "it does not begin as a qcow2 image does");
}

TEST_F(Qcow2Check, FreesALeak) {
  const std::string image = plain();
  add_cluster(image);
  const uint64_t last = std::filesystem::file_size(image) - kCluster;
  set_count(image, last, 1);
  expect_agreement(image);
  EXPECT_EQ(check(image).leaks, 1U);
  const CheckResult repaired = check(image, Repair::leaks);
  EXPECT_EQ(repaired.leaks, 0U);
  EXPECT_EQ(repaired.leaks_fixed, 1U);
  expect_clean(image);
}

TEST_F(Qcow2Check, DoesNotFreeWhatMayBeWhatWasLost) {
  const std::string image = plain();
  add_cluster(image);
  set_count(image, std::filesystem::file_size(image) - kCluster, 1);
  poke64(image, first_l2(image), kCopied | 1 << 9 | 5 * kCluster);  // where that cluster was, perhaps
  const CheckResult result = check(image, Repair::leaks);
  EXPECT_EQ(result.corruptions, 1U);
  EXPECT_EQ(result.leaks, 2U);
  EXPECT_EQ(result.leaks_fixed, 0U);
}

TEST_F(Qcow2Check, ClearsTheMarksOfAnImageThatIsInOrder) {
  const std::string image = plain();
  poke64(image, kFieldIncompatible, kIncompatDirty | kIncompatCorrupt);
  EXPECT_TRUE(check(image).dirty);
  EXPECT_TRUE(check(image).marked_corrupt);
  const CheckResult result = check(image, Repair::all);
  EXPECT_FALSE(result.dirty || result.marked_corrupt);
  EXPECT_EQ(peek64(image, kFieldIncompatible), 0U);
}

TEST_F(Qcow2Check, LimitsItsMessagesButCountsOn) {
  const std::string image = plain();
  for (uint64_t i = 0; i < 12; ++i) poke64(image, first_l2(image) + i * 8, kCopied | 1 << 9);
  const auto file = BlockFile::open(image, {.read_only = true});
  std::string why;
  CheckOptions options;
  options.max_messages = 5;
  const auto result = engine_->run(check_image(*engine_, *file, options, why));
  ASSERT_TRUE(result) << why;
  EXPECT_EQ(result->messages.size(), 5U);
  EXPECT_EQ(result->more_messages, result->corruptions + result->leaks - 5);
}

TEST_F(Qcow2Check, TellsItsProgressToTheEnd) {
  const std::string image = busy();
  const auto file = BlockFile::open(image, {.read_only = true});
  std::string why;
  CheckOptions options;
  uint64_t done = 0, total = 0;
  options.progress = [&](uint64_t d, uint64_t t) {
    done = d;
    total = t;
  };
  ASSERT_TRUE(engine_->run(check_image(*engine_, *file, options, why)));
  EXPECT_GT(total, 0U);
  EXPECT_EQ(done, total);
}

// What is done to an image; it is found, both checks count the same, and repair leaves an image that both
// find in order.
struct Damage {
  const char* name;
  std::function<void(const std::string& image, uint64_t table, uint64_t block, uint64_t l1, uint64_t l2)>
      inflict;
  const char* options = "compat=1.1";
  bool loses = false;  // guest data
  bool agrees = true;  // qemu-img counts it alike
};
void PrintTo(const Damage& d, std::ostream* out) {
  *out << d.name;
}

class Qcow2Damage : public Qcow2Check, public testing::WithParamInterface<Damage> {};

struct Poke : test::ImageFiles {
  using ImageFiles::peek64;
  using ImageFiles::poke;
  using ImageFiles::poke64;
};

std::vector<Damage> damages() {
  using S = const std::string&;
  using U = uint64_t;
  return {
      {"CountZero", [](S i, U, U block, U, U) { Poke::poke(i, block + 5 * 2, {0, 0}); }},
      {"CountsOfTheHeaderZero", [](S i, U, U block, U, U) { Poke::poke(i, block, {0, 0, 0, 0}); }},
      {"CountTwo", [](S i, U, U block, U, U) { Poke::poke(i, block + 8 * 2, {0, 2}); }},
      {"BlockMissing", [](S i, U table, U, U, U) { Poke::poke64(i, table, 0); }},
      {"BlockUnaligned", [](S i, U table, U block, U, U) { Poke::poke64(i, table, block + 512); },
       "compat=1.1", false, false},
      {"BlockWithReservedBits", [](S i, U table, U block, U, U) { Poke::poke64(i, table, block + 1); },
       "compat=1.1", false, false},
      {"BlockPastTheEnd", [](S i, U table, U, U, U) { Poke::poke64(i, table, 1 << 30); }, "compat=1.1", false,
       false},
      {"BlockOverTheHeader", [](S i, U table, U, U, U) { Poke::poke64(i, table + 8, 0x10000); }, "compat=1.1",
       false, false},
      {"TableMissing", [](S i, U, U, U, U) { Poke::poke(i, 56, {0, 0, 0, 0}); }, "compat=1.1", false, false},
      {"TablePastTheEnd", [](S i, U, U, U, U) { Poke::poke64(i, 48, 1 << 30); }, "compat=1.1", false, false},
      {"L1Reserved", [](S i, U, U, U l1, U l2) { Poke::poke64(i, l1, kCopied | l2 | 2); }, "compat=1.1",
       false, true},
      {"L1NotCopied", [](S i, U, U, U l1, U l2) { Poke::poke64(i, l1, l2); }},
      {"L1Unaligned", [](S i, U, U, U l1, U l2) { Poke::poke64(i, l1, kCopied | l2 | 1024); }, "compat=1.1",
       true, false},
      {"L1PastTheEnd", [](S i, U, U, U l1, U) { Poke::poke64(i, l1, kCopied | 1 << 30); }, "compat=1.1", true,
       false},
      {"L2NotCopied", [](S i, U, U, U, U l2) { Poke::poke64(i, l2, Poke::peek64(i, l2) & ~kCopied); }},
      {"L2Reserved", [](S i, U, U, U, U l2) { Poke::poke64(i, l2, Poke::peek64(i, l2) | 4); }},
      {"L2Unaligned", [](S i, U, U, U, U l2) { Poke::poke64(i, l2, Poke::peek64(i, l2) | 512); },
       "compat=1.1", true, false},
      {"L2UnalignedInVersion2", [](S i, U, U, U, U l2) { Poke::poke64(i, l2, Poke::peek64(i, l2) | 512); },
       "compat=0.10", true, false},
      {"L2PastTheEnd", [](S i, U, U, U, U l2) { Poke::poke64(i, l2, kCopied | 1 << 30); }, "compat=1.1", true,
       false},
      {"L2Shared", [](S i, U, U, U, U l2) { Poke::poke64(i, l2, Poke::peek64(i, l2 + 8)); }, "compat=1.1",
       true, true},
      {"CompressedCopied",
       [](S i, U, U, U, U l2) {
         Poke::poke64(i, l2 + 8 * 20, kCopied | encode_compressed({5 * kCluster, 100}, 16));
       },
       "compat=1.1", true, false},
      {"CompressedPastTheEnd",
       [](S i, U, U, U, U l2) { Poke::poke64(i, l2 + 8 * 20, encode_compressed({1 << 30, 100}, 16)); },
       "compat=1.1", false, true},
      {"SubclustersBothWays", [](S i, U, U, U, U l2) { Poke::poke64(i, l2 + 8, 0x0000000100000001); },
       "extended_l2=on", true, false},
      {"SubclustersNowhere", [](S i, U, U, U, U l2) { Poke::poke64(i, l2 + 16 * 100 + 8, 1); },
       "extended_l2=on", true, true},
  };
}

TEST_P(Qcow2Damage, IsFoundAndRepaired) {
  const Damage& damage = GetParam();
  const std::string image = plain(damage.options);
  const std::string before = path("before.qcow2");
  std::filesystem::copy_file(image, before);
  damage.inflict(image, header(image).refcount_table_offset, first_block(image), header(image).l1_offset,
                 first_l2(image));
  const CheckResult found = check(image);
  EXPECT_GT(found.corruptions, 0U);
  EXPECT_FALSE(found.messages.empty());
  EXPECT_NE(qemu_check(image).status, 0);
  if (damage.agrees) expect_agreement(image);

  const CheckResult repaired = check(image, Repair::all);
  EXPECT_EQ(repaired.corruptions, 0U);
  EXPECT_EQ(repaired.corruptions_fixed, found.corruptions);
  EXPECT_EQ(repaired.leaks, 0U);
  expect_clean(image);
  if (!damage.loses) {
    EXPECT_TRUE(same_content(image, before));
  }
  // And it goes on working.
  const auto io = test::run_program({"qemu-io", "-f", "qcow2", "-c", "write -P 9 10M 5M", image});
  EXPECT_EQ(io.status, 0) << io.output;
  expect_clean(image);
}

INSTANTIATE_TEST_SUITE_P(Qcow2Check, Qcow2Damage, testing::ValuesIn(damages()),
                         [](const auto& test) { return test.param.name; });

// Refused reading, and what repair cannot mend.
TEST_F(Qcow2Check, FindsDataInAMetadataCluster) {
  const std::string image = plain();
  poke64(image, first_l2(image) + 8 * 30, kCopied | header(image).l1_offset);
  EXPECT_GE(check(image).corruptions, 1U);
  const CheckResult repaired = check(image, Repair::all);
  EXPECT_GE(repaired.corruptions, 1U);  // which of the two it is nobody can say
}

TEST_F(Qcow2Check, FindsAMisplacedSnapshotL1Table) {
  const std::string image = busy();
  const uint64_t table = peek64(image, 64);
  poke64(image, table, peek64(image, table) + 512);
  EXPECT_GE(check(image).corruptions, 1U);
  EXPECT_NE(qemu_check(image).status, 0);
}

TEST_F(Qcow2Check, FindsABitmapThatLeadsOutOfTheFile) {
  const std::string image = plain();
  ASSERT_EQ(test::run_program({"qemu-img", "bitmap", "--add", "-g", "65536", image, "b0"}).status, 0);
  const Header h = header(image);
  const Extension* extension = find_extension(h, kExtensionBitmaps);
  ASSERT_NE(extension, nullptr);
  const uint64_t directory = load_be64(extension->data.data() + 16);
  const uint64_t bitmap_table = peek64(image, directory);
  poke64(image, bitmap_table, 1 << 30);
  EXPECT_GE(check(image).corruptions, 1U);
}

TEST_F(Qcow2Check, FindsAnExternalClusterOutOfPlace) {
  const std::string image =
      make("external.qcow2", "data_file=" + path("data.raw"), "10M", {"write -P 1 0 1M"});
  poke64(image, first_l2(image) + 8 * 3, kCopied | 5 * kCluster);
  EXPECT_EQ(check(image).corruptions, 1U);
  EXPECT_EQ(check(image, Repair::all).corruptions, 0U);
  EXPECT_EQ(peek64(image, first_l2(image) + 8 * 3), kCopied | 3 * kCluster);
  expect_clean(image);
}

TEST_F(Qcow2Check, WillNotCountMoreThanTheRefcountsCan) {
  const std::string image = plain("refcount_bits=1");
  poke64(image, first_l2(image), peek64(image, first_l2(image) + 8));
  const auto file = BlockFile::open(image, {});
  std::string why;
  CheckOptions options;
  options.repair = Repair::all;
  const auto result = engine_->run(check_image(*engine_, *file, options, why));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::unsupported);
}

TEST_F(Qcow2Check, RepairsSnapshotsAndCompressedClustersWithoutLoss) {
  for (const char* options : {"compat=0.10", "cluster_size=1k", "refcount_bits=64,cluster_size=512"}) {
    SCOPED_TRACE(options);
    const std::string image = busy(options);
    const std::string before = path("before.qcow2");
    std::filesystem::copy_file(image, before, std::filesystem::copy_options::overwrite_existing);
    poke64(image, header(image).refcount_table_offset, 0);
    EXPECT_GT(check(image).corruptions, 0U);
    EXPECT_EQ(check(image, Repair::all).corruptions, 0U);
    expect_clean(image);
    EXPECT_TRUE(same_content(image, before));
    for (const std::string& each : {image, before})
      ASSERT_EQ(test::run_program({"qemu-img", "snapshot", "-a", "one", each}).status, 0);
    EXPECT_TRUE(same_content(image, before));
    expect_clean(image);
    std::filesystem::remove(image);
  }
}

TEST_F(Qcow2Check, RebuildsTheCountsOfADirtyImage) {
  const std::string image = plain("lazy_refcounts=on");
  const std::string before = path("before.qcow2");
  std::filesystem::copy_file(image, before);
  for (uint64_t c = 5; c < 20; ++c) poke(image, first_block(image) + c * 2, {0, 0});
  poke64(image, kFieldIncompatible, kIncompatDirty);
  Header h = header(image);
  {
    const auto file = BlockFile::open(image, {});
    ASSERT_TRUE(engine_->run(rebuild_refcounts(*engine_, *file, h)));
  }
  EXPECT_EQ(h.incompatible, 0U);
  EXPECT_EQ(h.refcount_table_offset, header(image).refcount_table_offset);
  expect_clean(image);
  EXPECT_TRUE(same_content(image, before));
}

TEST_F(Qcow2Check, DoesNotRebuildCountsWhereMoreIsWrong) {
  const std::string image = plain("lazy_refcounts=on");
  poke64(image, first_l2(image), kCopied | 1 << 9);
  poke64(image, kFieldIncompatible, kIncompatDirty);
  Header h = header(image);
  const auto file = BlockFile::open(image, {});
  const auto result = engine_->run(rebuild_refcounts(*engine_, *file, h));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::corrupt);
  EXPECT_EQ(peek64(image, kFieldIncompatible), kIncompatDirty);
}

// Writes fail from the n-th on, as if the process had been killed there.
class KilledFile final : public BlockFile {
 public:
  KilledFile(const std::string& path, uint64_t writes)
      : BlockFile(UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC)), path, {.lock = false},
                  std::filesystem::file_size(path)),
        left_(writes) {}
  bool write_now(uint64_t, uint64_t, std::span<const iovec>) override { return false; }
  Task<Result<void>> write(IoEngine& engine, uint64_t offset, std::span<const iovec> pieces,
                           const StopFlag* stop) override {
    if (left_ == 0) co_return fail(Errc::io, "killed");
    --left_;
    co_return co_await BlockFile::write(engine, offset, pieces, stop);
  }

 private:
  uint64_t left_;
};

TEST_F(Qcow2Check, RepairThatIsKilledAnywhereLosesNothing) {
  const std::string image = busy("cluster_size=1k,refcount_bits=8");
  const std::string before = path("before.qcow2");
  std::filesystem::copy_file(image, before);
  const Header h = header(image);
  poke64(image, h.refcount_table_offset + 8, 0);                             // counts
  poke64(image, first_l2(image), peek64(image, first_l2(image)) ^ kCopied);  // flags
  const uint64_t old_table = h.refcount_table_offset;
  const std::string killed = path("killed.qcow2");
  bool whole = false;
  for (uint64_t writes = 0; !whole; ++writes) {
    SCOPED_TRACE(writes);
    ASSERT_LT(writes, 10000U);
    std::filesystem::copy_file(image, killed, std::filesystem::copy_options::overwrite_existing);
    {
      KilledFile file(killed, writes);
      std::string why;
      CheckOptions options;
      options.repair = Repair::all;
      whole = engine_->run(check_image(*engine_, file, options, why)).has_value();
    }
    // Either the old structures are in force, untouched, or the new ones are, whole: then every count is
    // right.
    if (header(killed).refcount_table_offset == old_table) {
      EXPECT_EQ(check(killed).corruptions, check(image).corruptions);
    } else {
      for (const std::string& message : check(killed).messages)
        EXPECT_NE(message.find("COPIED"), std::string::npos) << message;
    }
    if (writes % 16 != 0 && !whole) continue;  // the rest takes its time
    EXPECT_EQ(check(killed, Repair::all).corruptions, 0U);
    expect_clean(killed);
    EXPECT_TRUE(same_content(killed, before));
  }
}

}  // namespace
}  // namespace minivmm::qcow2
