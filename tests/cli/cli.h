// Runs the command line, and QEMU's tools beside it, as a person would.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/temp_folder.h"

namespace minivmm::test {

struct Outcome {
  int status = -1;  // the exit status, or 128 and the number of the signal that ended it
  std::string out;  // stdout
  std::string err;  // stderr
};

class Cli : public testing::Test {
 protected:
  // Words of a command; the program is found by PATH. stdin is empty, nothing is a terminal.
  Outcome run(const std::vector<std::string>& words) const;
  Outcome minivmm(std::vector<std::string> words) const;
  // Fails the test unless it ends with status 0; its stdout.
  std::string qemu_img(std::vector<std::string> words) const;
  void qemu_io(const std::string& image, const std::string& format,
               const std::vector<std::string>& commands) const;

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string read_file(const std::string& name) const;
  bool exists(const std::string& name) const { return std::filesystem::exists(path(name)); }
  // What the image's disk holds, by qemu-img, as a raw file of that name.
  void dump(const std::string& image, const std::string& raw) const;
  void expect_same_disk(const std::string& image, const std::string& raw) const;
  void expect_clean(const std::string& image) const;  // qemu-img check: no error, no leak

 private:
  // In memory, where there is such a file system: half of what these tools do is to wait for the disk.
  TempFolder folder_{std::filesystem::exists("/dev/shm") ? "/dev/shm"
                                                         : std::filesystem::temp_directory_path()};
};

// Succeeded, and said nothing of its own accord.
#define EXPECT_QUIET(outcome)                  \
  do {                                         \
    const Outcome& quiet_ = (outcome);         \
    EXPECT_EQ(quiet_.status, 0) << quiet_.err; \
    EXPECT_EQ(quiet_.err, "");                 \
  } while (false)

}  // namespace minivmm::test
