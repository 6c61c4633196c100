// A disk in memory, and one that loses power.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "vmm/core/byte_sink.h"
#include "vmm/core/byte_source.h"

namespace minivmm::testing {

class MemoryDisk final : public ByteSource, public ByteSink {
 public:
  explicit MemoryDisk(std::vector<std::byte> contents) : bytes(std::move(contents)) {}

  uint64_t size() const override { return bytes.size(); }
  Result<void> read(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > bytes.size() || out.size() > bytes.size() - offset)
      return fail(Errc::out_of_range, "past the end");
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
    return {};
  }

  // Takes sectors until `power` has run out.
  Result<void> write(uint64_t offset, std::span<const std::byte> from) override {
    EXPECT_EQ(offset % 512, 0U);
    EXPECT_EQ(from.size() % 512, 0U);
    EXPECT_LE(offset + from.size(), bytes.size());
    for (size_t at = 0; at < from.size(); at += 512) {
      if (power-- == 0) {
        power = 0;
        return fail(Errc::io, "the power is gone");
      }
      std::ranges::copy(from.subspan(at, 512), bytes.begin() + static_cast<std::ptrdiff_t>(offset + at));
    }
    return {};
  }
  Result<void> flush() override { return {}; }

  std::vector<std::byte> bytes;
  size_t power = ~size_t{0};  // sectors that can still be written
};

}  // namespace minivmm::testing
