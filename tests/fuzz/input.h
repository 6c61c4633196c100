// What a fuzzer is given, taken piece by piece; past its end everything is 0, or empty.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace minivmm::test {

class Input {
 public:
  explicit Input(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  uint8_t byte() {
    const auto got = take(1);
    return got.empty() ? uint8_t{0} : got[0];
  }
  uint16_t word() {  // little-endian
    const uint8_t low = byte();
    return static_cast<uint16_t>(low | (byte() << 8));
  }
  std::span<const uint8_t> take(size_t count) {
    const auto got = bytes_.first(std::min(count, bytes_.size()));
    bytes_ = bytes_.subspan(got.size());
    return got;
  }

 private:
  std::span<const uint8_t> bytes_;
};

}  // namespace minivmm::test
