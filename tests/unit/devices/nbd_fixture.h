// A disk under test, and plain calls of it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "devices/block/block_backend.h"
#include "tests/unit/devices/nbd_servers.h"

namespace minivmm::test {

class NbdTest : public testing::Test {
 protected:
  Result<void> run(BlockBackend& disk, BlockRequest request) {
    return engine_->run(disk.run(*engine_, request));
  }
  Result<void> write(BlockBackend& disk, uint64_t offset, std::string bytes) {
    const iovec piece{bytes.data(), bytes.size()};
    return run(
        disk, {.op = BlockOp::write, .offset = offset, .length = bytes.size(), .data = std::span(&piece, 1)});
  }
  Result<std::string> read(BlockBackend& disk, uint64_t offset, size_t length) {
    std::string bytes(length, '?');
    const iovec piece{bytes.data(), bytes.size()};
    const auto got =
        run(disk, {.op = BlockOp::read, .offset = offset, .length = length, .data = std::span(&piece, 1)});
    if (!got) return std::unexpected(got.error());
    return bytes;
  }
  Result<void> flush(BlockBackend& disk) { return run(disk, {.op = BlockOp::flush}); }
  Result<BlockExtent> extent(BlockBackend& disk, uint64_t offset, uint64_t length) {
    return engine_->run(disk.extent(*engine_, offset, length));
  }
  // What opening throws, else "".
  template <class Open>
  static std::string error_of(Open open) {
    try {
      open();
      return "";
    } catch (const HostError& e) {
      return e.what();
    }
  }
  static void expect_one_line(const std::string& what, const std::string& part) {
    EXPECT_NE(what.find(part), std::string::npos) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
  }

  std::unique_ptr<IoEngine> engine_ = IoEngine::create();
};

}  // namespace minivmm::test
