// Bytes that can be read at random: a disk as the guest would see it, a file, a part of either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmm/core/error.h"

namespace minivmm {

class ByteSource {
 public:
  ByteSource() = default;
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;
  virtual ~ByteSource() = default;

  virtual uint64_t size() const = 0;  // bytes
  // All of `out`, from `offset` (bytes) on, at any alignment; waits for them. Errc::out_of_range where that
  // reaches past size(), Errc::io or Errc::corrupt where the bytes cannot be had.
  virtual Result<void> read(uint64_t offset, std::span<std::byte> out) const = 0;
};

// `length` bytes from `start` on of another source, which must outlive it. What lies past the other's end is
// not there.
class ByteRange final : public ByteSource {
 public:
  ByteRange(const ByteSource& of, uint64_t start, uint64_t length)
      : of_(of),
        start_(start),
        size_(start >= of.size() ? 0 : (length < of.size() - start ? length : of.size() - start)) {}

  uint64_t size() const override { return size_; }
  Result<void> read(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > size_ || out.size() > size_ - offset)
      return fail(Errc::out_of_range, "a read past the end of the partition");
    return of_.read(start_ + offset, out);
  }

 private:
  const ByteSource& of_;
  uint64_t start_;
  uint64_t size_;
};

}  // namespace minivmm
