// Small synthetic kernels: what the loaders' tests and nothing else need of a vmlinux and a bzImage.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "boot/boot_params.h"
#include "boot/unpack.h"

namespace minivmm::testing {

using Bytes = std::vector<std::byte>;

inline constexpr uint64_t kLoadAddress = 0x1000000;
inline constexpr uint64_t kLinkBase = 0xffffffff80000000 + kLoadAddress;
inline constexpr uint32_t kAlignment = 0x10000;
inline constexpr uint32_t kInitSize = 0x60000;
inline constexpr uint64_t kImageSize = 0x14000;  // the segments' bytes in memory, without the last one's .bss
inline constexpr uint64_t kEntryOffset = 0x40;   // of startup_64 from the first segment

// Places with relocations, from the first segment's beginning.
inline constexpr uint64_t kPlace32 = 0x100;
inline constexpr uint64_t kPlace64 = 0x12010;  // in the last segment, which moves when it is loaded
inline constexpr uint64_t kInversePlace = 0x11008;

enum class Relocations : uint8_t { none, two_lists, three_lists, four_lists, outside };

// A vmlinux with the segments of a real one: text, data, per-CPU at virtual address 0, init with .bss; the
// file is laid out wider than memory. The relocation table is appended.
Bytes make_vmlinux(Relocations = Relocations::three_lists);
// Its segments as they lie in memory (kImageSize bytes), relocated by `delta`.
Bytes vmlinux_image(uint64_t delta);

// As the kernel's build does it. nullopt gives a payload that nobody knows.
Bytes compress(std::optional<Compression>, const Bytes&);

struct BzImageSpec {
  std::optional<Compression> compression = Compression::lz4;
  Relocations relocations = Relocations::three_lists;
};
Bytes make_bzimage(const BzImageSpec& = {});
Bytes wrap_payload(const Bytes& payload);  // a bzImage around any payload
SetupHeader header_of(const Bytes& bzimage);
void set_header(Bytes& bzimage, const SetupHeader&);

struct ElfSpec {
  uint64_t entry = 0x200000;
  uint64_t paddr = 0x200000;
  uint64_t vaddr = 0x200000;
  uint64_t file_size = 0x100;
  uint64_t memory_size = 0x2000;
  std::optional<uint64_t> pvh_entry = {};
  unsigned note_alignment = 4;
};
Bytes make_elf(const ElfSpec& = {});

template <class T>
void put(Bytes& in, size_t offset, const T& what) {
  if (in.size() < offset + sizeof what) in.resize(offset + sizeof what);
  const auto bytes = std::as_bytes(std::span(&what, 1));
  std::copy(bytes.begin(), bytes.end(), in.begin() + static_cast<std::ptrdiff_t>(offset));
}
template <class T>
T get(const Bytes& from, size_t offset) {
  T out;
  std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(offset), sizeof out,
              std::as_writable_bytes(std::span(&out, 1)).begin());
  return out;
}

// What `call` throws as HostError, or "" if it does not.
template <class F>
std::string error_of(F&& call) {
  try {
    call();
  } catch (const HostError& error) {
    return error.what();
  }
  return {};
}

}  // namespace minivmm::testing
