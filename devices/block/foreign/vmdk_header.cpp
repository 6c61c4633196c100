#include "devices/block/foreign/vmdk_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <optional>
#include <vector>

namespace minivmm {

namespace {

constexpr uint64_t kSector = 512;                // VMDK's unit
constexpr uint64_t kMaxDescriptorSectors = 128;  // VMware's have 20
constexpr size_t kCapacity = 12;                 // SparseExtentHeader's fields, bytes
constexpr size_t kDescriptorOffset = 28;
constexpr size_t kDescriptorSize = 36;

constexpr const char* kPartOfSeveral = "it has no descriptor: it is one file of an image in several";

uint64_t get_u64(std::span<const std::byte> bytes, size_t offset) {
  uint64_t value = 0;
  for (size_t i = 8; i-- > 0;) value = value << 8 | std::to_integer<uint64_t>(bytes[offset + i]);
  return value;
}

bool same_word(std::string_view a, std::string_view b) {
  return std::ranges::equal(
      a, b, [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return text;
}

// The value of `key = "value"`, the last if there are several.
std::optional<std::string> find_value(std::string_view descriptor, std::string_view key) {
  std::optional<std::string> out;
  while (!descriptor.empty()) {
    const size_t end = std::min(descriptor.find_first_of("\r\n"), descriptor.size());
    const std::string_view line = descriptor.substr(0, end);
    descriptor.remove_prefix(std::min(end + 1, descriptor.size()));
    const size_t equals = line.find('=');
    if (equals == std::string_view::npos || !same_word(trim(line.substr(0, equals)), key)) continue;
    out = trim(line.substr(equals + 1));
  }
  return out;
}

std::string printable(std::string text) {
  text.resize(std::min<size_t>(text.size(), 80));
  std::ranges::replace_if(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

std::string check_descriptor(std::string_view descriptor) {
  const std::string type = find_value(descriptor, "createType").value_or("");
  if (type.empty()) return kPartOfSeveral;
  if (!same_word(type, "monolithicSparse") && !same_word(type, "streamOptimized")) {
    return fmt::format(
        "it is of type '{}', and only monolithicSparse and streamOptimized images are read; "
        "convert it (qemu-img convert -O qcow2)",
        printable(type));
  }
  // CID_NOPARENT
  if (!same_word(find_value(descriptor, "parentCID").value_or("ffffffff"), "ffffffff") ||
      find_value(descriptor, "parentFileNameHint")) {
    return "it is a snapshot, which needs the image below it; convert it (qemu-img convert -O qcow2)";
  }
  return {};
}

}  // namespace

std::string check_vmdk(const ImageReader& read, uint64_t file_size) {
  std::array<std::byte, kSector> header{};
  if (const auto got = read(0, header); !got) return got.error().what;
  if (std::memcmp(header.data(), "KDMV", 4) != 0) {
    return "it is made of several files, or is an ESX one; convert it (qemu-img convert -O qcow2)";
  }
  const uint64_t at = get_u64(header, kDescriptorOffset);
  const uint64_t sectors = get_u64(header, kDescriptorSize);
  // Without a capacity its reader takes the descriptor for one that lists other files.
  if (get_u64(header, kCapacity) == 0) return "its header gives it no size";
  if (at == 0 || sectors == 0) return kPartOfSeveral;
  if (sectors > kMaxDescriptorSectors || at >= file_size / kSector) return "its header makes no sense";
  std::vector<std::byte> text(sectors * kSector);
  if (const auto got = read(at * kSector, text); !got) return got.error().what;
  std::string_view descriptor(reinterpret_cast<const char*>(text.data()), text.size());
  return check_descriptor(descriptor.substr(0, descriptor.find('\0')));
}

}  // namespace minivmm
