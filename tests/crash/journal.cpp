#include "tests/crash/journal.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "vmm/core/error.h"

namespace minivmm::crash {

namespace {

Mapping map(const std::string& path, int flags) {
  const UniqueFd fd(::open(path.c_str(), flags | O_RDWR | O_CLOEXEC, 0600));
  if (!fd || ::ftruncate(fd.get(), sizeof(Shared)) != 0) throw_errno("open the journal " + path);
  return Mapping::map(sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0, "the journal");
}

struct Pattern {
  uint64_t magic;
  uint64_t sector;
  uint64_t operation;
  uint64_t check;
};
constexpr uint64_t kMagic = 0x6d696e69766d6d21;

Pattern pattern(uint64_t sector, uint32_t operation) {
  return {kMagic, sector, operation, (sector * 0x9e3779b97f4a7c15) ^ (uint64_t{operation} << 20) ^ kMagic};
}

}  // namespace

Journal Journal::create(const std::string& path) {
  Journal journal(map(path, O_CREAT | O_TRUNC));
  journal->operations = kBase + 1;
  return journal;
}

Journal Journal::open(const std::string& path) {
  return Journal(map(path, 0));
}

void stamp(std::span<std::byte> sector_bytes, uint64_t sector, uint32_t operation) {
  const Pattern one = pattern(sector, operation);
  for (size_t at = 0; at < kSector; at += sizeof one) std::memcpy(sector_bytes.data() + at, &one, sizeof one);
}

uint32_t read_stamp(std::span<const std::byte> sector_bytes, uint64_t sector) {
  if (std::ranges::all_of(sector_bytes, [](std::byte b) { return b == std::byte{0}; })) return 0;
  Pattern first;
  std::memcpy(&first, sector_bytes.data(), sizeof first);
  const auto operation = static_cast<uint32_t>(first.operation);
  std::array<std::byte, kSector> expected;
  stamp(expected, sector, operation);
  return std::ranges::equal(expected, sector_bytes) ? operation : ~uint32_t{0};
}

}  // namespace minivmm::crash
