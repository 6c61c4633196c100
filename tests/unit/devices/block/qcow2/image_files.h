// qcow2 images as files, for tests: made and judged by qemu-img and qemu-io, damaged by hand.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "devices/block/block_file.h"
#include "devices/block/qcow2/check.h"
#include "devices/block/qcow2/format.h"
#include "tests/temp_folder.h"

namespace minivmm::test {

struct Program {
  int status = -1;
  std::string output;  // stdout and stderr
};
// Waits for it. A program that is not installed fails the test.
Program run_program(const std::vector<std::string>& words);

// The number behind "key": in JSON, the first one; 0 if there is none, as qemu-img leaves out zeroes.
uint64_t json_number(const std::string& json, const std::string& key);
bool json_has(const std::string& json, const std::string& key, const std::string& value);

class ImageFiles : public testing::Test {
 protected:
  ImageFiles() : engine_(IoEngine::create()) {}

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  // An image made by `qemu-img create -f qcow2 -o OPTIONS NAME SIZE`; then by qemu-io's commands.
  std::string make(const std::string& name, const std::string& options, const std::string& size,
                   const std::vector<std::string>& commands = {});

  // What `qemu-img check` finds.
  struct Findings {
    int status = -1;
    uint64_t corruptions = 0, leaks = 0;
    uint64_t total = 0, allocated = 0, compressed = 0, fragmented = 0, image_end = 0;
  };
  static Findings qemu_check(const std::string& image);
  static std::string qemu_info(const std::string& image);  // JSON

  qcow2::CheckResult check(const std::string& image, qcow2::Repair repair = qcow2::Repair::none);
  qcow2::Header header(const std::string& image);
  // As our check and qemu-img's both see it.
  void expect_clean(const std::string& image);
  void expect_agreement(const std::string& image);

  static uint64_t peek64(const std::string& file, uint64_t offset);
  static void poke64(const std::string& file, uint64_t offset, uint64_t value);
  static void poke(const std::string& file, uint64_t offset, const std::vector<uint8_t>& bytes);
  // Where the active L1's first entry leads.
  uint64_t first_l2(const std::string& image) {
    return peek64(image, header(image).l1_offset) & qcow2::kOffsetMask;
  }
  uint64_t first_block(const std::string& image) {
    return peek64(image, header(image).refcount_table_offset);
  }

  TempFolder folder_;
  std::unique_ptr<IoEngine> engine_;
};

}  // namespace minivmm::test
