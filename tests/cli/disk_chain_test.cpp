// commit and rebase, resize and map, against what QEMU says of the same images.
#include <algorithm>
#include <boost/json/src.hpp>  // compiled in here
#include <cctype>
#include <fstream>
#include <string>
#include <vector>

#include "tests/cli/cli.h"

namespace minivmm::test {
namespace {

namespace json = boost::json;

class DiskChain : public Cli {
 protected:
  // base <- top, with data, zeroes and holes in both; `options` are top's.
  void make_chain(const std::string& options, const std::string& top_size = "8M") const {
    for (const char* name : {"base.qcow2", "top.qcow2"}) std::filesystem::remove(path(name));
    qemu_img({"create", "-q", "-f", "qcow2", "base.qcow2", "6M"});
    qemu_io("base.qcow2", "qcow2", {"write -P 1 0 2M", "write -P 2 5M 300k"});
    qemu_img({"create", "-q", "-f", "qcow2", "-o", options, "-b", "base.qcow2", "-F", "qcow2", "top.qcow2",
              top_size});
    qemu_io("top.qcow2", "qcow2", {"write -P 3 100k 50k", "write -z 512k 256k", "write -P 4 3M 64k"});
    if (top_size == "8M") qemu_io("top.qcow2", "qcow2", {"write -z 5M 64k", "write -P 5 7M 64k"});
  }
  // As older tools left it: the header extension becomes one that nobody knows.
  void forget_backing_format(const std::string& image) const {
    std::string bytes = read_file(image);
    const size_t at = bytes.find("\xe2\x79\x2a\xca");
    ASSERT_NE(at, std::string::npos);
    bytes.replace(at, 4, "none");
    std::ofstream(path(image), std::ios::binary) << bytes;
  }
};

// The same with top in every geometry.
class DiskGeometry : public DiskChain, public testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Qcow2, DiskGeometry,
                         testing::Values("compat=0.10", "compat=0.10,cluster_size=512", "cluster_size=4k",
                                         "cluster_size=2M", "extended_l2=on,cluster_size=64k",
                                         "refcount_bits=1", "lazy_refcounts=on"),
                         [](const testing::TestParamInfo<const char*>& param) {
                           std::string name = param.param;
                           std::ranges::replace_if(
                               name, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
                           return name;
                         });

TEST_P(DiskGeometry, CommitMovesWhatTheOverlayHoldsIntoItsBackingFile) {
  make_chain(GetParam());
  dump("top.qcow2", "expected.raw");
  EXPECT_QUIET(minivmm({"disk", "commit", "top.qcow2"}));
  expect_same_disk("base.qcow2", "expected.raw");  // it grew to the overlay's 8 MiB
  expect_same_disk("top.qcow2", "expected.raw");
  expect_clean("base.qcow2");
  expect_clean("top.qcow2");
  EXPECT_EQ(qemu_img({"map", "--output=json", "top.qcow2"}).find("\"depth\": 0, \"present\": true"),
            std::string::npos);
}

TEST_F(DiskChain, CommitOfASmallerOverlayKeepsTheRestOfTheBackingFile) {
  make_chain("compat=1.1", "4M");
  qemu_img({"convert", "-O", "raw", "base.qcow2", "expected.raw"});
  qemu_img({"dd", "-O", "raw", "-f", "qcow2", "bs=1M", "count=4", "if=top.qcow2", "of=head.raw"});
  EXPECT_QUIET(minivmm({"disk", "commit", "top.qcow2"}));
  dump("base.qcow2", "actual.raw");
  const std::string actual = read_file("actual.raw");
  ASSERT_EQ(actual.size(), 6U << 20);
  EXPECT_TRUE(actual.substr(0, 4 << 20) == read_file("head.raw"));
  EXPECT_TRUE(actual.substr(4 << 20) == read_file("expected.raw").substr(4 << 20));
}

TEST_F(DiskChain, CommitIntoARawBackingFile) {
  std::ofstream(path("base.raw")) << std::string(3 << 20, 'b');
  qemu_img({"create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2"});
  qemu_io("top.qcow2", "qcow2", {"write -P 3 100k 50k", "write -z 512k 256k"});
  dump("top.qcow2", "expected.raw");
  EXPECT_QUIET(minivmm({"disk", "commit", "--keep", "top.qcow2"}));
  EXPECT_TRUE(read_file("base.raw") == read_file("expected.raw"));
  EXPECT_NE(qemu_img({"map", "--output=json", "top.qcow2"}).find("\"depth\": 0"), std::string::npos);
}

TEST_F(DiskChain, CommitRefusesWhatItWouldHarm) {
  qemu_img({"create", "-q", "-f", "qcow2", "alone.qcow2", "1M"});
  Outcome outcome = minivmm({"disk", "commit", "alone.qcow2"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("no backing file"), std::string::npos) << outcome.err;
  make_chain("compat=1.1");
  qemu_img({"snapshot", "-c", "before", "top.qcow2"});
  outcome = minivmm({"disk", "commit", "top.qcow2"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("internal snapshots"), std::string::npos) << outcome.err;
}

// A raw backing file whose format is a guess must not become a qcow2 image by what a guest wrote.
TEST_F(DiskChain, CommitNeverTurnsAGuessedRawFileIntoAnotherFormat) {
  std::ofstream(path("base.raw")) << std::string(1 << 20, 'b');
  qemu_img({"create", "-q", "-f", "qcow2", "evil.qcow2", "1M"});
  for (const char* format : {"", "raw"}) {
    std::filesystem::remove(path("top.qcow2"));
    qemu_img({"create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2"});
    qemu_img({"dd", "-f", "raw", "-O", "raw", "bs=512", "count=1", "if=evil.qcow2", "of=sector.raw"});
    const std::string sector = read_file("sector.raw");
    std::ofstream(path("sector.bin"), std::ios::binary) << sector;
    qemu_io("top.qcow2", "qcow2", {"write -s " + path("sector.bin") + " 0 512"});
    if (*format == '\0') forget_backing_format("top.qcow2");
    const Outcome outcome = minivmm({"disk", "commit", "top.qcow2"});
    if (*format == '\0') {
      EXPECT_EQ(outcome.status, 1);
      EXPECT_NE(outcome.err.find("guessed"), std::string::npos) << outcome.err;
      EXPECT_EQ(read_file("base.raw").substr(0, 512), std::string(512, 'b'));
    } else {
      EXPECT_QUIET(outcome);  // the image says that it is raw
      EXPECT_EQ(read_file("base.raw").substr(0, 512), sector);
    }
  }
}

TEST_P(DiskGeometry, RebaseKeepsWhatTheDiskShows) {
  qemu_img({"create", "-q", "-f", "qcow2", "other.qcow2", "3M"});
  qemu_io("other.qcow2", "qcow2", {"write -P 9 0 128k", "write -P 1 1M 1M"});
  std::ofstream(path("large.raw")) << std::string(10 << 20, 'L');
  make_chain(GetParam());
  dump("top.qcow2", "expected.raw");
  for (const char* base : {"other.qcow2", "large.raw", "base.qcow2"}) {
    EXPECT_QUIET(minivmm({"disk", "rebase", "top.qcow2", "--backing", base}));
    expect_same_disk("top.qcow2", "expected.raw");
    expect_clean("top.qcow2");
    EXPECT_NE(qemu_img({"info", "top.qcow2"}).find(std::string("backing file: ") + base), std::string::npos);
  }
  EXPECT_QUIET(minivmm({"disk", "rebase", "top.qcow2", "--no-backing"}));
  expect_same_disk("top.qcow2", "expected.raw");
  expect_clean("top.qcow2");
  EXPECT_EQ(qemu_img({"info", "top.qcow2"}).find("backing file"), std::string::npos);
  // From none to one: what was nothing is zeroes from now on, whatever lies below.
  EXPECT_QUIET(minivmm({"disk", "rebase", "top.qcow2", "--backing", "large.raw"}));
  expect_same_disk("top.qcow2", "expected.raw");
  expect_clean("top.qcow2");
}

TEST_F(DiskChain, UnsafeRebaseOnlyChangesTheName) {
  make_chain("compat=1.1");
  dump("top.qcow2", "expected.raw");
  std::filesystem::rename(path("base.qcow2"), path("moved.qcow2"));
  EXPECT_EQ(minivmm({"disk", "rebase", "top.qcow2", "--backing", "moved.qcow2"}).status, 1);
  EXPECT_EQ(minivmm({"disk", "rebase", "-u", "top.qcow2", "--backing", "moved.qcow2"}).status, 2);
  EXPECT_QUIET(minivmm(
      {"disk", "rebase", "-u", "top.qcow2", "--backing", "moved.qcow2", "--backing-format", "qcow2"}));
  expect_same_disk("top.qcow2", "expected.raw");
  EXPECT_EQ(minivmm({"disk", "rebase", "top.qcow2", "--backing", "top.qcow2"}).status, 1);
  EXPECT_EQ(minivmm({"disk", "rebase", "top.qcow2"}).status, 2);
}

TEST_F(DiskChain, ResizeAddsZeroesAndCutsOffOnlyWhenAsked) {
  for (const std::string format : {"qcow2", "raw"}) {
    SCOPED_TRACE(format);
    const std::string image = "disk." + format;
    qemu_img({"create", "-q", "-f", format, image, "2M"});
    qemu_io(image, format, {"write -P 1 0 2M"});
    EXPECT_QUIET(minivmm({"disk", "resize", image, "+1M"}));
    EXPECT_QUIET(minivmm({"disk", "resize", image, "5M"}));
    qemu_io(image, format, {"read -P 1 0 2M", "read -P 0 2M 3M"});
    EXPECT_NE(qemu_img({"info", "-f", format, image}).find("5242880 bytes"), std::string::npos);
    EXPECT_EQ(minivmm({"disk", "resize", image, "1M"}).status, 2);
    EXPECT_EQ(minivmm({"disk", "resize", image, "-4M"}).status, 2);
    EXPECT_QUIET(minivmm({"disk", "resize", "--shrink", image, "-4M"}));
    EXPECT_QUIET(minivmm({"disk", "resize", image, "2M"}));
    qemu_io(image, format, {"read -P 1 0 1M", "read -P 0 1M 1M"});
    if (format == "qcow2") expect_clean(image);
    for (const char* size : {"", "x", "+", "-9M", "0", "99999999999999999999", "+16777215T"}) {
      EXPECT_NE(minivmm({"disk", "resize", "--shrink", image, size}).status, 0) << size;
    }
  }
}

// One line a run, in QEMU's terms.
std::string runs_of(const std::string& text) {
  struct Run {
    int64_t start, length, depth;
    bool zero, data;
    int64_t offset;
  };
  std::vector<Run> runs;
  const json::value parsed = json::parse(text);
  for (const json::value& value : parsed.as_array()) {
    const json::object& o = value.as_object();
    const bool data = o.at("data").as_bool();
    Run run{o.at("start").to_number<int64_t>(),
            o.at("length").to_number<int64_t>(),
            o.at("depth").to_number<int64_t>(),
            o.at("zero").as_bool(),
            data,
            data && o.contains("offset") ? o.at("offset").to_number<int64_t>() : -1};
    // Where nothing is stored the two may draw the line between layers differently.
    if (!data) run.depth = 0;
    if (!runs.empty()) {
      Run& last = runs.back();
      if (last.depth == run.depth && last.zero == run.zero && last.data == run.data &&
          (last.offset < 0 ? run.offset < 0 : last.offset + last.length == run.offset)) {
        last.length += run.length;
        continue;
      }
    }
    runs.push_back(run);
  }
  std::string out;
  for (const Run& r : runs) {
    out += std::to_string(r.start) + "+" + std::to_string(r.length) + " layer " + std::to_string(r.depth) +
           (r.zero ? " zero" : "") + (r.data ? " data" : "") + " at " + std::to_string(r.offset) + "\n";
  }
  return out;
}

TEST_P(DiskGeometry, MapSaysWhatQemusMapSays) {
  make_chain(GetParam());
  for (const char* image : {"base.qcow2", "top.qcow2"}) {
    const Outcome ours = minivmm({"disk", "map", "--json", image});
    EXPECT_QUIET(ours);
    EXPECT_EQ(runs_of(ours.out), runs_of(qemu_img({"map", "--output=json", image})));
  }
}

TEST_F(DiskChain, MapListsWhatIsStoredAndInWhichFile) {
  make_chain("compat=1.1");
  const auto without_spaces = [](const std::string& text) {
    std::string out;
    for (const char c : text) {
      if (c == '\n' || std::isspace(static_cast<unsigned char>(c)) == 0) {
        out += c;
      } else if (!out.empty() && out.back() != ' ') {
        out += ' ';
      }
    }
    return out;
  };
  const Outcome ours = minivmm({"disk", "map", "top.qcow2"});
  EXPECT_QUIET(ours);
  std::string theirs = without_spaces(qemu_img({"map", "top.qcow2"}));
  theirs.replace(theirs.find("\n0 "), 3, "\n0x0 ");
  EXPECT_EQ(without_spaces(ours.out), theirs);
}

}  // namespace
}  // namespace minivmm::test
