#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/cli/cli.h"

namespace minivmm::test {
namespace {

class DiskConvert : public Cli {
 protected:
  // 5 MiB and a bit of a disk, with zeroes, runs of one byte, and noise, in a raw file.
  void make_raw(const std::string& name) const {
    std::string bytes((5 << 20) + 512 * 3, '\0');
    std::mt19937 random(7);
    for (size_t i = 1 << 20; i < (2 << 20) + 1000; ++i) bytes[i] = static_cast<char>(random());
    for (size_t i = 3 << 20; i < (3 << 20) + 300000; ++i) bytes[i] = 'x';
    bytes[bytes.size() - 1] = 'z';
    std::ofstream(path(name), std::ios::binary) << bytes;
  }
};

TEST_F(DiskConvert, WhatItWritesShowsTheSameDiskToQemu) {
  make_raw("src.raw");
  for (const std::vector<std::string>& options :
       std::vector<std::vector<std::string>>{{},
                                             {"--cluster-size", "512"},
                                             {"--cluster-size", "2M"},
                                             {"-c", "zlib"},
                                             {"-c", "zlib", "--level", "9"},
                                             {"-c", "zstd"},
                                             {"-c", "zstd", "--level", "19", "--cluster-size", "4K"},
                                             {"-c", "zstd", "--cluster-size", "2M"},
                                             {"--threads", "1"},
                                             {"--threads", "16"}}) {
    std::vector<std::string> words{"disk", "convert", "--force", "src.raw", "dst.qcow2"};
    words.insert(words.end(), options.begin(), options.end());
    EXPECT_QUIET(minivmm(words));
    expect_same_disk("dst.qcow2", "src.raw");
    expect_clean("dst.qcow2");
  }
}

class DiskConvertFrom : public DiskConvert, public testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Qcow2, DiskConvertFrom,
                         testing::Values("compat=0.10", "compat=0.10,cluster_size=512", "cluster_size=2M",
                                         "refcount_bits=1", "refcount_bits=64",
                                         "extended_l2=on,cluster_size=64k", "extended_l2=on,cluster_size=16k",
                                         "lazy_refcounts=on", "compression_type=zstd", "data_file=data.raw",
                                         "data_file=data.raw,data_file_raw=on"),
                         [](const testing::TestParamInfo<const char*>& param) {
                           std::string name = param.param;
                           std::ranges::replace_if(
                               name, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
                           return name;
                         });

TEST_P(DiskConvertFrom, ReadsWhatQemuWrites) {
  const std::string options = GetParam();
  qemu_img({"create", "-q", "-f", "qcow2", "-o", options, "src.qcow2", "9M"});
  qemu_io("src.qcow2", "qcow2",
          {"write -P 1 0 64k", "write -P 2 1000k 1500k", "write -z 1100k 200k", "write -P 3 8M 512k",
           "write -P 4 7000064 512"});
  if (!options.starts_with("data_file")) qemu_io("src.qcow2", "qcow2", {"write -c -P 5 4M 2M"});
  dump("src.qcow2", "expected.raw");
  EXPECT_QUIET(minivmm({"disk", "convert", "src.qcow2", "out.raw"}));
  EXPECT_TRUE(read_file("out.raw") == read_file("expected.raw"));
  EXPECT_QUIET(minivmm({"disk", "convert", "src.qcow2", "out.qcow2"}));
  expect_same_disk("out.qcow2", "expected.raw");
  expect_clean("out.qcow2");
}

TEST_F(DiskConvert, FlattensAChain) {
  make_raw("base.raw");
  qemu_img({"create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "middle.qcow2"});
  qemu_io("middle.qcow2", "qcow2", {"write -P 6 1500k 100k", "write -z 3M 100k"});
  qemu_img({"create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "top.qcow2", "7M"});
  qemu_io("top.qcow2", "qcow2", {"write -P 7 1520k 10k", "write -P 8 6M 4k"});
  dump("top.qcow2", "expected.raw");
  EXPECT_QUIET(minivmm({"disk", "convert", "top.qcow2", "flat.qcow2"}));
  expect_same_disk("flat.qcow2", "expected.raw");
  EXPECT_EQ(qemu_img({"info", "flat.qcow2"}).find("backing"), std::string::npos);
}

TEST_F(DiskConvert, ZeroesTakeNoSpace) {
  std::ofstream(path("src.raw")) << std::string(16 << 20, '\0');
  EXPECT_QUIET(minivmm({"disk", "convert", "src.raw", "dst.qcow2"}));
  EXPECT_LT(std::filesystem::file_size(path("dst.qcow2")), 1U << 20);
  EXPECT_QUIET(minivmm({"disk", "convert", "src.raw", "dst.img"}));
  EXPECT_EQ(std::filesystem::file_size(path("dst.img")), 16U << 20);
  EXPECT_EQ(run({"du", "-k", "dst.img"}).out, "0\tdst.img\n");
}

TEST_F(DiskConvert, CompressedIsSmaller) {
  std::ofstream(path("src.raw")) << std::string(4 << 20, 'a');
  EXPECT_QUIET(minivmm({"disk", "convert", "-c", "zstd", "src.raw", "dst.qcow2"}));
  EXPECT_LT(std::filesystem::file_size(path("dst.qcow2")), 512U << 10);
  EXPECT_NE(qemu_img({"info", "dst.qcow2"}).find("compression type: zstd"), std::string::npos);
}

TEST_F(DiskConvert, AnExistingTargetIsReplacedOnlyByForce) {
  make_raw("src.raw");
  std::ofstream(path("dst.qcow2")) << "mine";
  const Outcome refused = minivmm({"disk", "convert", "src.raw", "dst.qcow2"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.err.find("--force"), std::string::npos) << refused.err;
  EXPECT_EQ(read_file("dst.qcow2"), "mine");
  EXPECT_QUIET(minivmm({"disk", "convert", "--force", "src.raw", "dst.qcow2"}));
  expect_same_disk("dst.qcow2", "src.raw");
}

TEST_F(DiskConvert, OptionsThatDoNotGoTogetherAreUsageErrors) {
  make_raw("src.raw");
  for (const std::vector<std::string>& options :
       std::vector<std::vector<std::string>>{{"--format", "raw", "-c", "zlib"},
                                             {"--format", "raw", "--cluster-size", "64K"},
                                             {"--level", "3"},
                                             {"-c", "lzma"},
                                             {"-c", "zlib", "--level", "10"},
                                             {"--cluster-size", "100"},
                                             {"--cluster-size", "4M"},
                                             {"--source-format", "paper"}}) {
    std::vector<std::string> words{"disk", "convert", "src.raw", "dst.x"};
    words.insert(words.end(), options.begin(), options.end());
    const Outcome outcome = minivmm(words);
    EXPECT_EQ(outcome.status, 2) << options[0] << " " << options[1] << ": " << outcome.err;
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
    EXPECT_FALSE(exists("dst.x"));
  }
}

TEST_F(DiskConvert, AFailureLeavesNoFileBehind) {
  make_raw("src.raw");
  qemu_img({"create", "-q", "-f", "qcow2", "-b", "src.raw", "-F", "raw", "top.qcow2"});
  std::filesystem::remove(path("src.raw"));
  const Outcome outcome = minivmm({"disk", "convert", "top.qcow2", "dst.qcow2"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("src.raw"), std::string::npos) << outcome.err;
  for (const auto& entry : std::filesystem::directory_iterator(path(""))) {
    EXPECT_EQ(entry.path().string().find("dst"), std::string::npos) << entry.path();
  }
}

TEST_F(DiskConvert, AnInterruptLeavesNoFileBehind) {
  std::string noise(64 << 20, '\0');
  std::mt19937 random(1);
  for (char& c : noise) c = static_cast<char>(random() % 7);
  std::ofstream(path("src.raw"), std::ios::binary) << noise;
  const pid_t child = ::fork();
  if (child == 0) {
    if (::chdir(path("").c_str()) == 0) {
      ::execl(MINIVMM_CLI, "minivmm", "disk", "convert", "-c", "zstd", "--level", "22", "src.raw",
              "dst.qcow2", nullptr);
    }
    ::_exit(127);
  }
  const auto others = [&] {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path(""))) {
      if (entry.path().filename() != "src.raw") names.push_back(entry.path().filename());
    }
    return names;
  };
  // The file appears once the copy is about to begin, which takes far longer than to look for it.
  while (others().empty() && ::waitpid(child, nullptr, WNOHANG) == 0) std::this_thread::yield();
  ASSERT_EQ(::kill(child, SIGINT), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
  EXPECT_TRUE(others().empty()) << others().front();
}

}  // namespace
}  // namespace minivmm::test
