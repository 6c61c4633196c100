#include "devices/block/qcow2/create.h"

#include <filesystem>
#include <ostream>

#include "image_files.h"

namespace minivmm::qcow2 {

namespace {

struct Geometry {
  const char* name;
  CreateOptions options;
};
void PrintTo(const Geometry& g, std::ostream* out) {
  *out << g.name;
}

class Qcow2Create : public test::ImageFiles {};
class Qcow2Creates : public test::ImageFiles, public testing::WithParamInterface<Geometry> {};

std::vector<Geometry> geometries() {
  constexpr uint64_t kMiB = 1 << 20;
  using enum Preallocation;
  return {
      {"Defaults", {.size = 10 * kMiB}},
      {"Empty", {.size = 0}},
      {"OddSize", {.size = 1000001}},
      {"Terabytes", {.size = 20 * kMiB * kMiB}},
      {"Version2", {.size = 10 * kMiB, .version = 2}},
      {"SmallestClusters", {.size = 100 * kMiB, .cluster_size = 512}},
      {"LargestOfSmallestClusters", {.size = 100 * 1024 * kMiB, .cluster_size = 512}},
      {"LargestClusters", {.size = 10 * kMiB, .cluster_size = 2 * kMiB}},
      {"Refcounts1", {.size = 10 * kMiB, .refcount_bits = 1}},
      {"Refcounts2", {.size = 10 * kMiB, .cluster_size = 4096, .refcount_bits = 2}},
      {"Refcounts64", {.size = 10 * kMiB, .cluster_size = 512, .refcount_bits = 64}},
      {"ExtendedL2", {.size = 100 * kMiB, .cluster_size = 16384, .extended_l2 = true}},
      {"LazyRefcounts", {.size = 10 * kMiB, .lazy_refcounts = true}},
      {"Zstd", {.size = 10 * kMiB, .compression = Compression::zstd}},
      {"Metadata", {.size = 50 * kMiB + 512, .preallocation = metadata}},
      {"MetadataInSmallClusters", {.size = 20 * kMiB, .cluster_size = 512, .preallocation = metadata}},
      {"MetadataOfVersion2", {.size = 20 * kMiB, .version = 2, .preallocation = metadata}},
      {"MetadataOfExtendedL2", {.size = 20 * kMiB, .extended_l2 = true, .preallocation = metadata}},
      {"Falloc", {.size = 3 * kMiB, .preallocation = falloc}},
      {"Full", {.size = 3 * kMiB, .refcount_bits = 1, .preallocation = full}},
  };
}

TEST_P(Qcow2Creates, AnImageThatQemuFindsInOrder) {
  const CreateOptions& o = GetParam().options;
  const std::string image = path("image.qcow2");
  create_image(*engine_, image, o);
  expect_clean(image);
  const std::string info = qemu_info(image);
  EXPECT_EQ(test::json_number(info, "virtual-size"), (o.size + 511) / 512 * 512);
  EXPECT_EQ(test::json_number(info, "cluster-size"), o.cluster_size);
  EXPECT_EQ(test::json_number(info, "refcount-bits"), o.refcount_bits);
  EXPECT_TRUE(test::json_has(info, "compat", o.version == 2 ? "\"0.10\"" : "\"1.1\"")) << info;
  if (o.version >= 3) {
    EXPECT_TRUE(test::json_has(info, "extended-l2", o.extended_l2 ? "true" : "false")) << info;
    EXPECT_TRUE(test::json_has(info, "lazy-refcounts", o.lazy_refcounts ? "true" : "false")) << info;
  }
  const auto found = check(image);
  EXPECT_EQ(found.allocated_clusters, o.preallocation == Preallocation::off ? 0 : found.total_clusters);
  if (o.size == 0) return;
  // It reads as zeroes, and QEMU can write to it.
  const auto io = test::run_program({"qemu-io", "-f", "qcow2", "-c", "read -P 0 0 900k", "-c",
                                     "write -P 7 4k 300k", "-c", "read -P 7 4k 300k", image});
  EXPECT_EQ(io.status, 0) << io.output;
  EXPECT_EQ(io.output.find("failed"), std::string::npos) << io.output;
  expect_clean(image);
}

INSTANTIATE_TEST_SUITE_P(Qcow2Create, Qcow2Creates, testing::ValuesIn(geometries()),
                         [](const auto& test) { return test.param.name; });

TEST_F(Qcow2Create, MakesTheSameHeaderAsQemu) {
  const std::string ours = path("ours.qcow2");
  create_image(*engine_, ours, {.size = 10 << 20, .backing_file = "base", .backing_format = "raw"});
  const std::string base = path("base");
  ASSERT_EQ(test::run_program({"qemu-img", "create", "-q", "-f", "raw", base, "10M"}).status, 0);
  const auto made = test::run_program(
      {"qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", path("theirs.qcow2"), "10M"});
  ASSERT_EQ(made.status, 0) << made.output;
  for (uint64_t at = 0; at < 1024; at += 8)
    EXPECT_EQ(peek64(ours, at), peek64(path("theirs.qcow2"), at)) << "at " << at;
}

TEST_F(Qcow2Create, FallocAndFullTakeTheirSpace) {
  for (const Preallocation how : {Preallocation::falloc, Preallocation::full}) {
    const std::string image = path(how == Preallocation::full ? "full" : "falloc");
    create_image(*engine_, image, {.size = 3 << 20, .preallocation = how});
    EXPECT_GE(test::json_number(qemu_info(image), "actual-size"), 3U << 20);
  }
}

TEST_F(Qcow2Create, ShowsABackingFileThroughPreallocatedSubclusters) {
  const std::string base = path("base.raw");
  ASSERT_EQ(test::run_program({"qemu-img", "create", "-q", "-f", "raw", base, "1M"}).status, 0);
  ASSERT_EQ(test::run_program({"qemu-io", "-f", "raw", "-c", "write -P 9 0 1M", base}).status, 0);
  const std::string image = path("top.qcow2");
  create_image(*engine_, image,
               {.size = 1 << 20,
                .extended_l2 = true,
                .backing_file = "base.raw",
                .backing_format = "raw",
                .preallocation = Preallocation::metadata});
  expect_clean(image);
  const auto io = test::run_program({"qemu-io", "-f", "qcow2", "-c", "read -P 9 0 1M", image});
  EXPECT_EQ(io.output.find("failed"), std::string::npos) << io.output;
}

TEST_F(Qcow2Create, WithARawExternalDataFile) {
  const std::string image = path("image.qcow2");
  create_image(*engine_, image, {.size = 5 << 20, .data_file = path("data.raw"), .data_file_raw = true});
  EXPECT_EQ(std::filesystem::file_size(path("data.raw")), 5U << 20);
  expect_clean(image);
  const std::string info = qemu_info(image);
  EXPECT_TRUE(test::json_has(info, "data-file", "\"" + path("data.raw") + "\"")) << info;
  EXPECT_TRUE(test::json_has(info, "data-file-raw", "true")) << info;
  ASSERT_EQ(test::run_program({"qemu-io", "-f", "qcow2", "-c", "write -P 5 64k 64k", image}).status, 0);
  EXPECT_EQ(peek64(path("data.raw"), 64 << 10), 0x0505050505050505U);
  expect_clean(image);
}

TEST_F(Qcow2Create, NamesADataFileInItsOwnFolder) {
  const std::string image = path("image.qcow2");
  create_image(*engine_, image, {.size = 5 << 20, .data_file = "data"});
  EXPECT_EQ(std::filesystem::file_size(path("data")), 5U << 20);
  EXPECT_EQ(header(image).data_file(), "data");
}

TEST_F(Qcow2Create, LeavesNothingBehindWhereItFails) {
  const std::string image = path("image.qcow2");
  EXPECT_THROW(create_image(*engine_, image, {.size = 1 << 20, .data_file = "no/such/folder/data"}),
               HostError);
  EXPECT_FALSE(std::filesystem::exists(image));
}

TEST_F(Qcow2Create, KeepsItsHandsOffWhatIsThere) {
  const std::string image = make("image.qcow2", "compat=1.1", "1M");
  EXPECT_THROW(create_image(*engine_, image, {.size = 2 << 20}), HostError);
  EXPECT_EQ(header(image).size, 1U << 20);
}

TEST_F(Qcow2Create, SaysWhyThereCanBeNoSuchImage) {
  const auto refused = [](const CreateOptions& o) { return why_not_create(o) != nullptr; };
  EXPECT_FALSE(refused({.size = 1 << 20}));
  EXPECT_TRUE(refused({.size = 1 << 20, .cluster_size = 256}));
  EXPECT_TRUE(refused({.size = 1 << 20, .cluster_size = 4 << 20}));
  EXPECT_TRUE(refused({.size = 1 << 20, .cluster_size = 3 << 16}));
  EXPECT_TRUE(refused({.size = 1 << 20, .refcount_bits = 3}));
  EXPECT_TRUE(refused({.size = 1 << 20, .refcount_bits = 128}));
  EXPECT_TRUE(refused({.size = 1 << 20, .version = 4}));
  EXPECT_TRUE(refused({.size = 1 << 20, .version = 2, .compression = Compression::zstd}));
  EXPECT_TRUE(refused({.size = 1 << 20, .cluster_size = 8192, .extended_l2 = true}));
  EXPECT_TRUE(refused({.size = uint64_t{1} << 63}));
  EXPECT_TRUE(refused({.size = uint64_t{1} << 40, .cluster_size = 512}));
  EXPECT_TRUE(refused({.size = 1 << 20, .backing_file = "base"}));
  EXPECT_TRUE(refused({.size = 1 << 20, .backing_file = std::string(1024, 'x'), .backing_format = "raw"}));
  EXPECT_TRUE(refused({.size = 1 << 20, .data_file_raw = true}));
  EXPECT_TRUE(refused({.size = 1 << 20,
                       .backing_file = "base",
                       .backing_format = "raw",
                       .preallocation = Preallocation::full}));
}

}  // namespace
}  // namespace minivmm::qcow2
