// `minivmm disk create`, `info` and `check`.
#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "tests/cli/cli.h"

namespace minivmm::test {
namespace {

class DiskImage : public Cli {
 protected:
  // Over a byte of the file.
  void poke(const std::string& name, uint64_t offset, char byte) const {
    std::fstream file(path(name), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(byte);
    EXPECT_TRUE(file.good());
  }
  static bool says(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
};

TEST_F(DiskImage, CreateMakesWhatQemuFindsInOrder) {
  EXPECT_QUIET(minivmm({"disk", "create", "a.qcow2", "1G"}));
  expect_clean("a.qcow2");
  const std::string info = qemu_img({"info", "--output=json", "a.qcow2"});
  EXPECT_TRUE(says(info, "\"virtual-size\": 1073741824")) << info;
  EXPECT_TRUE(says(info, "\"compat\": \"1.1\"")) << info;
  EXPECT_TRUE(says(info, "\"cluster-size\": 65536")) << info;
}

TEST_F(DiskImage, CreateTakesEveryGeometry) {
  for (const std::vector<std::string>& options :
       std::vector<std::vector<std::string>>{{"--cluster-size", "512"},
                                             {"--cluster-size", "2M"},
                                             {"--compat", "0.10"},
                                             {"--refcount-bits", "64"},
                                             {"--extended-l2", "--compression", "zstd", "--lazy-refcounts"},
                                             {"--preallocation", "metadata"},
                                             {"--preallocation", "falloc"},
                                             {"--preallocation", "full"}}) {
    std::vector<std::string> words{"disk", "create", "--force", "a.qcow2", "5M"};
    words.insert(words.end(), options.begin(), options.end());
    EXPECT_QUIET(minivmm(words));
    expect_clean("a.qcow2");
    EXPECT_EQ(minivmm({"disk", "check", "a.qcow2"}).status, 0);
  }
}

TEST_F(DiskImage, CreateOverABackingFileTakesItsSizeAndSaysItsFormat) {
  qemu_img({"create", "-q", "-f", "raw", "base.raw", "7M"});
  qemu_io("base.raw", "raw", {"write -P 3 1M 1M"});
  const Outcome made = minivmm({"disk", "create", "top.qcow2", "--backing", "base.raw,format=raw"});
  EXPECT_QUIET(made);
  EXPECT_TRUE(says(made.out, "over base.raw (raw)")) << made.out;
  expect_same_disk("top.qcow2", "base.raw");
  const std::string info = qemu_img({"info", "--output=json", "top.qcow2"});
  EXPECT_TRUE(says(info, "\"backing-filename-format\": \"raw\"")) << info;
}

TEST_F(DiskImage, CreateWithADataFileIsReadByQemuFromAnywhere) {
  EXPECT_QUIET(minivmm({"disk", "create", "a.qcow2", "5M", "--data-file", "a.data", "--data-file-raw"}));
  EXPECT_EQ(std::filesystem::file_size(path("a.data")), 5U << 20);
  EXPECT_EQ(run({"sh", "-c", "cd / && qemu-img check '" + path("a.qcow2") + "'"}).status, 0);
}

TEST_F(DiskImage, CreateMakesRawDisks) {
  EXPECT_QUIET(minivmm({"disk", "create", "a.img", "3M"}));
  EXPECT_EQ(std::filesystem::file_size(path("a.img")), 3U << 20);
  EXPECT_QUIET(minivmm({"disk", "create", "b", "3M", "--format", "raw", "--preallocation", "full"}));
  EXPECT_EQ(std::filesystem::file_size(path("b")), 3U << 20);
}

TEST_F(DiskImage, CreateReplacesNothingUnasked) {
  EXPECT_QUIET(minivmm({"disk", "create", "a.qcow2", "1M"}));
  const Outcome again = minivmm({"disk", "create", "a.qcow2", "2M"});
  EXPECT_EQ(again.status, 1);
  EXPECT_TRUE(says(again.err, "--force")) << again.err;
  EXPECT_QUIET(minivmm({"disk", "create", "a.qcow2", "2M", "--force"}));
  EXPECT_TRUE(says(qemu_img({"info", "--output=json", "a.qcow2"}), "\"virtual-size\": 2097152"));
}

TEST_F(DiskImage, CreateRefusesWhatMakesNoSense) {
  for (const std::vector<std::string>& options :
       std::vector<std::vector<std::string>>{{"a.qcow2"},
                                             {"a.qcow2", "big"},
                                             {"a.qcow2", "1M", "--cluster-size", "3K"},
                                             {"a.qcow2", "1M", "--refcount-bits", "5"},
                                             {"a.qcow2", "1M", "--compat", "0.10", "--extended-l2"},
                                             {"a.raw", "1M", "--cluster-size", "64K"},
                                             {"a.raw", "1M", "--preallocation", "metadata"}}) {
    std::vector<std::string> words{"disk", "create"};
    words.insert(words.end(), options.begin(), options.end());
    const Outcome refused = minivmm(words);
    EXPECT_EQ(refused.status, 2) << options.back();
    EXPECT_EQ(std::count(refused.err.begin(), refused.err.end(), '\n'), 1) << refused.err;
    EXPECT_FALSE(exists("a.qcow2"));
    EXPECT_FALSE(exists("a.raw"));
  }
}

TEST_F(DiskImage, InfoSaysInJsonWhatQemuSays) {
  qemu_img({"create", "-q", "-f", "raw", "base.raw", "9M"});
  qemu_img({"create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "a.qcow2", "20M"});
  qemu_img({"bitmap", "--add", "-g", "65536", "a.qcow2", "b0"});
  qemu_img({"snapshot", "-c", "first", "a.qcow2"});
  const Outcome info = minivmm({"disk", "info", "--json", "a.qcow2"});
  EXPECT_QUIET(info);
  for (const char* part :
       {"\"virtual-size\": 20971520", "\"format\": \"qcow2\"", "\"cluster-size\": 65536",
        "\"backing-filename\": \"base.raw\"", "\"backing-filename-format\": \"raw\"", "\"name\": \"first\"",
        "\"compat\": \"1.1\"", "\"refcount-bits\": 16", "\"name\": \"b0\"", "\"granularity\": 65536",
        "\"corrupt\": false", "\"dirty-flag\": false"}) {
    EXPECT_TRUE(says(info.out, part)) << part << " in " << info.out;
  }
}

TEST_F(DiskImage, InfoFollowsTheChain) {
  qemu_img({"create", "-q", "-f", "raw", "base.raw", "9M"});
  qemu_img({"create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "middle.qcow2", "20M"});
  qemu_img({"create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "top.qcow2", "30M"});
  const Outcome info = minivmm({"disk", "info", "--chain", "top.qcow2"});
  EXPECT_QUIET(info);
  for (const char* part : {"30 MiB", "20 MiB", "9 MiB", "middle.qcow2", "base.raw"})
    EXPECT_TRUE(says(info.out, part)) << part << " in " << info.out;
}

TEST_F(DiskImage, InfoRefusesAChainThatComesBack) {
  qemu_img({"create", "-q", "-f", "qcow2", "a.qcow2", "1M"});
  qemu_img({"create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2", "1M"});
  qemu_img({"rebase", "-u", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "a.qcow2"});
  const Outcome info = minivmm({"disk", "info", "--chain", "a.qcow2"});
  EXPECT_EQ(info.status, 1);
  EXPECT_TRUE(says(info.err, "comes back")) << info.err;
  EXPECT_EQ(minivmm({"disk", "info", "a.qcow2"}).status, 0);
}

TEST_F(DiskImage, InfoTellsTheSizeOfForeignImages) {
  qemu_img({"create", "-q", "-f", "vmdk", "a.vmdk", "20M"});
  const Outcome info = minivmm({"disk", "info", "--json", "a.vmdk"});
  EXPECT_QUIET(info);
  EXPECT_TRUE(says(info.out, "\"format\": \"vmdk\"")) << info.out;
  EXPECT_TRUE(says(info.out, "\"virtual-size\": 20971520")) << info.out;
}

TEST_F(DiskImage, InfoSaysWhyAnImageCannotBeUsed) {
  qemu_img({"create", "-q", "-f", "qcow2", "a.qcow2", "1M"});
  poke("a.qcow2", 35, 2);  // crypt_method
  const Outcome info = minivmm({"disk", "info", "a.qcow2"});
  EXPECT_EQ(info.status, 1);
  EXPECT_TRUE(says(info.err, "encrypted (LUKS)")) << info.err;
}

TEST_F(DiskImage, CheckEndsAsQemuImgCheckDoes) {
  qemu_img({"create", "-q", "-f", "qcow2", "a.qcow2", "10M"});
  qemu_io("a.qcow2", "qcow2", {"write -P 1 0 1M"});
  EXPECT_EQ(minivmm({"disk", "check", "a.qcow2"}).status, 0);

  std::filesystem::resize_file(path("a.qcow2"), std::filesystem::file_size(path("a.qcow2")) + (1 << 16));
  const uint64_t last = std::filesystem::file_size(path("a.qcow2")) / (1 << 16) - 1;
  poke("a.qcow2", 0x20000 + last * 2 + 1, 1);  // the refcount block is the third cluster
  EXPECT_EQ(minivmm({"disk", "check", "a.qcow2"}).status, 3);
  EXPECT_EQ(run({"qemu-img", "check", "a.qcow2"}).status, 3);

  poke("a.qcow2", 0x20000 + 5 * 2 + 1, 0);
  const Outcome corrupt = minivmm({"disk", "check", "--json", "a.qcow2"});
  EXPECT_EQ(corrupt.status, 2);
  EXPECT_TRUE(says(corrupt.out, "\"leaks\": 1")) << corrupt.out;
  EXPECT_EQ(run({"qemu-img", "check", "a.qcow2"}).status, 2);
  EXPECT_EQ(minivmm({"disk", "check", "--repair=leaks", "a.qcow2"}).status, 2);

  const Outcome repaired = minivmm({"disk", "check", "--repair", "a.qcow2"});
  EXPECT_EQ(repaired.status, 0) << repaired.out << repaired.err;
  expect_clean("a.qcow2");
}

TEST_F(DiskImage, CheckOfARawDiskHasNothingToSay) {
  EXPECT_QUIET(minivmm({"disk", "create", "a.img", "1M"}));
  const Outcome checked = minivmm({"disk", "check", "a.img"});
  EXPECT_QUIET(checked);
  EXPECT_TRUE(says(checked.out, "no metadata")) << checked.out;
}

TEST_F(DiskImage, CheckFailsOnWhatIsNotThere) {
  EXPECT_EQ(minivmm({"disk", "check", "nothing.qcow2"}).status, 1);
}

}  // namespace
}  // namespace minivmm::test
