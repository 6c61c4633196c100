#include "tests/unit/devices/block/qcow2/image_fixture.h"

#include <fstream>
#include <iterator>

namespace minivmm::qcow2::test {

void ImageTest::write_file(const std::string& name, std::span<const std::byte> bytes) const {
  std::ofstream file(path(name), std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.flush());
}

Bytes ImageTest::as_qemu_reads(const std::string& name) const {
  EXPECT_EQ(shell(fmt::format("qemu-img convert -f qcow2 -O raw {0} {0}.as-raw", name)), 0);
  std::ifstream file(path(name + ".as-raw"), std::ios::binary);
  const std::vector<char> chars{std::istreambuf_iterator<char>(file), {}};
  const auto bytes = std::as_bytes(std::span(chars));
  return {bytes.begin(), bytes.end()};
}

Bytes pattern(std::mt19937_64& random, uint64_t length) {
  Bytes bytes(length);
  for (uint64_t i = 0; i < length; i += 8) {
    const uint64_t word = random();
    for (uint64_t j = i; j < std::min(i + 8, length); ++j)
      bytes[j] = static_cast<std::byte>((word >> (j - i) * 8) | 1);  // never a zero
  }
  return bytes;
}

}  // namespace minivmm::qcow2::test
