#include "devices/block/qcow2/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace minivmm::qcow2 {

namespace {

constexpr size_t kFeatureNameEntry = 48;  // "Feature name table": type, bit, 46 bytes of name

struct FeatureName {
  uint8_t type;  // 0 incompatible, 1 compatible, 2 autoclear
  uint8_t bit;
  std::string_view name;
};

// The names that QEMU gives them, so that its users know them again.
constexpr std::array kFeatureNames{
    FeatureName{0, 0, "dirty bit"},
    FeatureName{0, 1, "corrupt bit"},
    FeatureName{0, 2, "external data file"},
    FeatureName{0, 3, "compression type"},
    FeatureName{0, 4, "extended L2 entries"},
    FeatureName{1, 0, "lazy refcounts"},
    FeatureName{2, 0, "bitmaps"},
    FeatureName{2, 1, "raw external data"},
};

std::optional<std::string> text_of(const Header& header, uint32_t type) {
  const Extension* found = find_extension(header, type);
  if (!found) return std::nullopt;
  return std::string(reinterpret_cast<const char*>(found->data.data()), found->data.size());
}

}  // namespace

uint64_t Header::l1_entries_needed() const {
  const uint64_t covered = cluster_size() * l2_entries();  // by one L2 table; at most 2^21 * 2^18
  return size / covered + (size % covered != 0 ? 1 : 0);
}

std::optional<std::string> Header::backing_format() const {
  return text_of(*this, kExtensionBackingFormat);
}
std::optional<std::string> Header::data_file() const {
  return text_of(*this, kExtensionDataFile);
}

const Extension* find_extension(const Header& header, uint32_t type) {
  const auto found = std::ranges::find(header.extensions, type, &Extension::type);
  return found == header.extensions.end() ? nullptr : &*found;
}

void set_extension(Header& header, uint32_t type, std::span<const std::byte> data) {
  const auto found = std::ranges::find(header.extensions, type, &Extension::type);
  if (data.empty()) {
    if (found != header.extensions.end()) header.extensions.erase(found);
    return;
  }
  if (found == header.extensions.end()) {
    header.extensions.push_back({type, {data.begin(), data.end()}});
  } else {
    found->data.assign(data.begin(), data.end());
  }
}

std::vector<std::byte> feature_name_table() {
  std::vector<std::byte> table(kFeatureNames.size() * kFeatureNameEntry);
  std::byte* at = table.data();
  for (const FeatureName& feature : kFeatureNames) {
    at[0] = std::byte{feature.type};
    at[1] = std::byte{feature.bit};
    std::ranges::copy(std::as_bytes(std::span(feature.name)), at + 2);
    at += kFeatureNameEntry;
  }
  return table;
}

std::string incompatible_feature_name(const Header& header, unsigned bit) {
  if (const Extension* table = find_extension(header, kExtensionFeatureNames)) {
    std::span<const std::byte> rest = table->data;
    for (; rest.size() >= kFeatureNameEntry; rest = rest.subspan(kFeatureNameEntry)) {
      if (rest[0] != std::byte{0} || std::to_integer<unsigned>(rest[1]) != bit) continue;
      std::string name;
      for (const std::byte b : rest.subspan(2, kFeatureNameEntry - 2)) {
        const char c = static_cast<char>(b);
        if (c == '\0') break;
        name += c >= ' ' && c < '\x7f' ? c : '?';  // it goes to a terminal
      }
      return fmt::format("'{}' (incompatible bit {})", name, bit);
    }
  }
  for (const FeatureName& feature : kFeatureNames) {
    if (feature.type == 0 && feature.bit == bit)
      return fmt::format("'{}' (incompatible bit {})", feature.name, bit);
  }
  return fmt::format("without a name (incompatible bit {})", bit);
}

Result<void> check_table(const Header& header, uint64_t file_bytes, uint64_t offset, uint64_t bytes) {
  if (offset % header.cluster_size() != 0)
    return fail(Errc::corrupt, "a table does not start on a cluster boundary");
  if (bytes == 0) return {};
  if (offset < header.cluster_size()) return fail(Errc::corrupt, "a table lies over the header");
  if (offset > file_bytes || bytes > file_bytes - offset)
    return fail(Errc::corrupt, "a table reaches past the end of the file");
  return {};
}

// "Host cluster management": entries of several bytes are big-endian; of those that share a byte, the first
// is in its low bits.
uint64_t load_refcount(std::span<const std::byte> block, unsigned order, uint64_t index) {
  if (order < 3) {
    const unsigned bits = 1U << order;
    const unsigned per_byte = 8U >> order;
    const auto byte = std::to_integer<unsigned>(block[index / per_byte]);
    return byte >> (index % per_byte * bits) & ((1U << bits) - 1);
  }
  const size_t width = size_t{1} << (order - 3);
  uint64_t value = 0;
  for (const std::byte b : block.subspan(index * width, width))
    value = value << 8 | std::to_integer<uint64_t>(b);
  return value;
}

void store_refcount(std::span<std::byte> block, unsigned order, uint64_t index, uint64_t value) {
  if (order < 3) {
    const unsigned bits = 1U << order;
    const unsigned per_byte = 8U >> order;
    const unsigned shift = static_cast<unsigned>(index % per_byte) * bits;
    const unsigned mask = ((1U << bits) - 1) << shift;
    std::byte& byte = block[index / per_byte];
    byte = std::byte(static_cast<uint8_t>((std::to_integer<unsigned>(byte) & ~mask) |
                                          (static_cast<unsigned>(value) << shift & mask)));
    return;
  }
  const size_t width = size_t{1} << (order - 3);
  const auto entry = block.subspan(index * width, width);
  for (size_t i = width; i-- > 0; value >>= 8) entry[i] = static_cast<std::byte>(value);
}

CompressedRun decode_compressed(uint64_t l2_entry, unsigned cluster_bits) {
  const unsigned x = 62 - (cluster_bits - 8);
  const uint64_t offset = l2_entry & ((uint64_t{1} << x) - 1);
  const uint64_t sectors = (l2_entry >> x & ((uint64_t{1} << (cluster_bits - 8)) - 1)) + 1;
  return {offset, sectors * 512 - offset % 512};
}

uint64_t encode_compressed(const CompressedRun& run, unsigned cluster_bits) {
  const unsigned x = 62 - (cluster_bits - 8);
  const uint64_t more_sectors = (run.offset % 512 + run.bytes - 1) / 512;
  MV_CHECK(run.bytes > 0 && run.offset < uint64_t{1} << x &&
           more_sectors < uint64_t{1} << (cluster_bits - 8));
  return kCompressed | more_sectors << x | run.offset;
}

}  // namespace minivmm::qcow2
