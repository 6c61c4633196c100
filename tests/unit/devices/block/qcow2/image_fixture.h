// Images for tests: made by qemu-img, opened by us, judged by qemu-img.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "devices/block/qcow2/image.h"
#include "devices/block/raw.h"
#include "tests/temp_folder.h"

namespace minivmm::qcow2::test {

using Bytes = std::vector<std::byte>;

// qemu-img's and qemu-io's files and ours in one folder.
class ImageTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  // In the folder: qemu-img finds an external data file from where it runs.
  int shell(const std::string& command) const {
    const std::string all = fmt::format("cd {} && {} >/dev/null 2>&1", folder_.path().string(), command);
    return std::system(all.c_str());  // NOLINT(cert-env33-c,concurrency-mt-unsafe)
  }

  void create(const std::string& name, uint64_t size, const std::string& options,
              const std::string& more = {}) {
    const std::string with = options.empty() ? "" : "-o " + options;
    ASSERT_EQ(shell(fmt::format("cd {} && qemu-img create -f qcow2 {} {} {} {}", folder_.path().string(),
                                with, more, name, size)),
              0);
  }
  void write_file(const std::string& name, std::span<const std::byte> bytes) const;

  std::unique_ptr<Image> open(const std::string& name, bool writing = true,
                              std::shared_ptr<BlockBackend> backing = nullptr) {
    Image::Options options;
    options.read_only = !writing;
    options.backing = std::move(backing);
    return open(name, std::move(options));
  }
  std::unique_ptr<Image> open(const std::string& name, Image::Options options) {
    BlockFileOptions file_options;
    file_options.read_only = options.read_only;
    return open(BlockFile::open(path(name), file_options), std::move(options));
  }
  std::unique_ptr<Image> open(std::unique_ptr<BlockFile> file, Image::Options options) {
    auto image = engine_->run(Image::open(*engine_, std::move(file), std::move(options), why_));
    if (image) return std::move(*image);
    error_ = image.error().code;
    return nullptr;
  }
  std::unique_ptr<RawImage> raw(const std::string& name) const {
    BlockFileOptions options;
    options.read_only = true;
    return RawImage::open(path(name), options);
  }

  Result<void> run(BlockBackend& disk, const BlockRequest& request) {
    return engine_->run(disk.run(*engine_, request));
  }
  Result<void> write(BlockBackend& disk, uint64_t offset, std::span<const std::byte> bytes) {
    const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};  // only read from
    return run(disk, {.op = BlockOp::write, .offset = offset, .length = bytes.size(), .data = {&piece, 1}});
  }
  Result<Bytes> read(BlockBackend& disk, uint64_t offset, uint64_t length) {
    Bytes bytes(length, std::byte{0xee});
    const iovec piece{bytes.data(), length};
    const auto done =
        run(disk, {.op = BlockOp::read, .offset = offset, .length = length, .data = {&piece, 1}});
    if (!done) return std::unexpected(done.error());
    return bytes;
  }
  Result<void> flush(BlockBackend& disk) { return run(disk, {.op = BlockOp::flush}); }
  Result<void> close(BlockBackend& disk) { return engine_->run(disk.close(*engine_)); }

  // 0: sound; 3: leaks only; others as qemu-img check says.
  int check(const std::string& name) const {
    const std::string all = fmt::format(
        "cd {} && qemu-img check -f qcow2 {} >check.txt 2>&1 || {{ status=$?; cat check.txt >&2; exit "
        "$status; }}",
        folder_.path().string(), name);
    const int status = std::system(all.c_str());  // NOLINT(cert-env33-c,concurrency-mt-unsafe)
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // The whole disk as qemu-img reads it.
  Bytes as_qemu_reads(const std::string& name) const;

  minivmm::test::TempFolder folder_;
  std::unique_ptr<IoEngine> engine_ = IoEngine::create();
  std::string why_;
  Errc error_{};
};

Bytes pattern(std::mt19937_64& random, uint64_t length);

}  // namespace minivmm::qcow2::test
