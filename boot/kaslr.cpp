#include "boot/kaslr.h"

#include <sys/random.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace minivmm {

namespace {

constexpr size_t kEntrySize = sizeof(uint32_t);

uint32_t entry_at(std::span<const std::byte> list, size_t offset) {
  uint32_t v = 0;
  std::memcpy(&v, list.data() + offset, sizeof v);
  return v;
}

template <class T>
Result<void> move_places(std::span<const std::byte> list, std::span<std::byte> image, uint64_t link_address,
                         T delta) {
  for (size_t at = 0; at < list.size(); at += kEntrySize) {
    const auto linked = static_cast<uint64_t>(int64_t{static_cast<int32_t>(entry_at(list, at))});
    const uint64_t offset = linked - link_address;
    if (offset > image.size() || image.size() - offset < sizeof(T))
      return fail(Errc::corrupt, "a relocation lies outside the kernel");
    T v{};
    std::memcpy(&v, image.data() + offset, sizeof v);
    v = static_cast<T>(v + delta);
    std::memcpy(image.data() + offset, &v, sizeof v);
  }
  return {};
}

}  // namespace

std::optional<RelocationTable> RelocationTable::parse(std::span<const std::byte> table) {
  if (table.size() % kEntrySize != 0 || table.size() < 2 * kEntrySize) return std::nullopt;
  // Each list begins with its 0, for it is read backwards.
  std::array<size_t, 3> starts{};
  size_t lists = 0;
  for (size_t at = 0; at < table.size(); at += kEntrySize) {
    if (entry_at(table, at) != 0) continue;
    if (lists == starts.size()) return std::nullopt;
    starts[lists++] = at;
  }
  if (lists < 2 || starts[0] != 0) return std::nullopt;
  const auto list = [&](size_t i) {
    const size_t begin = starts[i] + kEntrySize;
    const size_t end = i + 1 < lists ? starts[i + 1] : table.size();
    return table.subspan(begin, end - begin);
  };
  RelocationTable parsed;
  parsed.places64_ = list(0);
  if (lists == 3) parsed.inverse32_ = list(1);
  parsed.places32_ = list(lists - 1);
  return parsed;
}

Result<void> RelocationTable::apply(std::span<std::byte> image, uint64_t link_address, uint64_t delta) const {
  const auto delta32 = static_cast<uint32_t>(delta);
  if (auto r = move_places<uint32_t>(places32_, image, link_address, delta32); !r) return r;
  if (auto r = move_places<uint32_t>(inverse32_, image, link_address, uint32_t{0} - delta32); !r) return r;
  return move_places<uint64_t>(places64_, image, link_address, delta);
}

uint64_t random_below(uint64_t bound) {
  MV_CHECK(bound != 0);
  const uint64_t excess = (uint64_t{0} - bound) % bound;  // 2^64 mod bound: values that would bias the result
  for (;;) {
    uint64_t v = 0;
    if (::getrandom(&v, sizeof v, 0) != static_cast<ssize_t>(sizeof v)) {
      if (errno == EINTR) continue;
      throw_errno("get random numbers for the guest's KASLR");
    }
    if (v >= excess) return v % bound;
  }
}

uint64_t random_virtual_offset(uint64_t link_offset, uint64_t image_size, uint64_t alignment) {
  if (image_size > kKernelImageSize || link_offset > kKernelImageSize - image_size) return 0;
  // kaslr.c, find_random_virt_addr()
  const uint64_t slots = 1 + (kKernelImageSize - link_offset - image_size) / alignment;
  return random_below(slots) * alignment;
}

}  // namespace minivmm
