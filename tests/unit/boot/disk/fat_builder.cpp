#include "tests/unit/boot/disk/fat_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace minivmm::testing {

namespace {

constexpr uint32_t kReserved = 32;     // sectors
constexpr size_t kFolderBytes = 4096;  // 128 entries each

bool is_short(std::string_view name) {
  return name.size() <= 11 && name.find('.') == std::string_view::npos && name.size() <= 8 &&
         std::ranges::all_of(name, [](char c) { return std::isupper(static_cast<unsigned char>(c)) != 0; });
}

}  // namespace

FatBuilder::FatBuilder(const Options& options) : options_(options) {
  const uint32_t entries = options.clusters + 2;
  const uint32_t fat_bytes = options.kind == Kind::fat32   ? entries * 4
                             : options.kind == Kind::fat16 ? entries * 2
                                                           : (entries * 3 + 1) / 2;
  fat_sectors_ = (fat_bytes + 511) / 512;
  root_sectors_ = options.kind == Kind::fat32 ? 0 : 16;
  const uint32_t sectors =
      kReserved + 2 * fat_sectors_ + root_sectors_ + options.clusters * options.cluster_sectors;
  image.resize(size_t{sectors} * 512);
  put(image, 11, uint16_t{512});
  put(image, 13, options.cluster_sectors);
  put(image, 14, static_cast<uint16_t>(kReserved));
  put(image, 16, uint8_t{2});
  put(image, 17, static_cast<uint16_t>(root_sectors_ * 16));
  put(image, 32, sectors);
  if (options.kind == Kind::fat32) {
    put(image, 36, fat_sectors_);
    put(image, 44, uint32_t{2});
  } else {
    put(image, 22, static_cast<uint16_t>(fat_sectors_));
  }
  put(image, 510, uint16_t{0xaa55});
  if (options.kind == Kind::fat32) {
    folder_end_[""] = offset_of(allocate(cluster_size()).front());
  } else {
    folder_end_[""] = (kReserved + 2 * size_t{fat_sectors_}) * 512;
  }
}

size_t FatBuilder::offset_of(uint32_t cluster) const {
  const size_t data = (kReserved + 2 * size_t{fat_sectors_} + root_sectors_) * 512;
  return data + (cluster - 2) * cluster_size();
}

uint32_t FatBuilder::next(uint32_t cluster) const {
  const size_t fat = size_t{kReserved} * 512;
  switch (options_.kind) {
    case Kind::fat32: return get<uint32_t>(image, fat + cluster * size_t{4});
    case Kind::fat16: return get<uint16_t>(image, fat + cluster * size_t{2});
    case Kind::fat12: break;
  }
  const auto pair = get<uint16_t>(image, fat + cluster + cluster / 2);
  return (cluster & 1) != 0 ? pair >> 4 : pair & 0xfff;
}

void FatBuilder::set_next(uint32_t cluster, uint32_t to) {
  const size_t fat = size_t{kReserved} * 512;
  switch (options_.kind) {
    case Kind::fat32: put(image, fat + cluster * size_t{4}, to); return;
    case Kind::fat16: put(image, fat + cluster * size_t{2}, static_cast<uint16_t>(to)); return;
    case Kind::fat12: break;
  }
  const size_t at = fat + cluster + cluster / 2;
  const auto pair = get<uint16_t>(image, at);
  const uint32_t joined = (cluster & 1) != 0 ? (pair & 0xfU) | to << 4 : (pair & 0xf000U) | (to & 0xfff);
  put(image, at, static_cast<uint16_t>(joined));
}

std::vector<uint32_t> FatBuilder::allocate(size_t bytes) {
  std::vector<uint32_t> chain;
  for (size_t at = 0; at < bytes; at += cluster_size()) {
    chain.push_back(free_);
    free_ += options_.scattered ? 2 : 1;
  }
  for (size_t i = 0; i < chain.size(); ++i) {
    set_next(chain[i], i + 1 < chain.size() ? chain[i + 1] : 0x0fffffff);
  }
  return chain;
}

size_t FatBuilder::folder(std::string_view path) {
  if (const auto found = folder_end_.find(path); found != folder_end_.end()) return found->second;
  // One run of clusters, so that entries can be put one behind the other.
  const bool scattered = std::exchange(options_.scattered, false);
  const auto chain = allocate(kFolderBytes);
  options_.scattered = scattered;
  put_entry(path, chain.front(), 0, true);
  return folder_end_[std::string(path)] = offset_of(chain.front());
}

void FatBuilder::put_entry(std::string_view path, uint32_t cluster, uint32_t size, bool is_folder) {
  const size_t slash = path.rfind('/');
  const std::string_view parent = slash == std::string_view::npos ? "" : path.substr(0, slash);
  const std::string_view name = slash == std::string_view::npos ? path : path.substr(slash + 1);
  size_t at = folder(parent);
  std::string alias = fmt::format("{:<11}", name);
  if (!is_short(name)) {
    alias = fmt::format("X{:<10}", names_++);
    uint8_t sum = 0;
    for (const char c : alias)
      sum = static_cast<uint8_t>(((sum & 1) << 7) + (sum >> 1) + static_cast<uint8_t>(c));
    const size_t parts = (name.size() + 12) / 13;
    for (size_t part = parts; part-- > 0; at += 32) {
      put(image, at, static_cast<uint8_t>((part + 1) | (part + 1 == parts ? 0x40 : 0)));
      put(image, at + 11, uint8_t{0x0f});
      put(image, at + 13, sum);
      for (size_t i = 0; i < 13; ++i) {
        const size_t from = part * 13 + i;
        const uint16_t unit = from < name.size()    ? static_cast<uint8_t>(name[from])
                              : from == name.size() ? uint16_t{0}
                                                    : uint16_t{0xffff};
        const size_t to = i < 5 ? 1 + i * 2 : i < 11 ? 14 + (i - 5) * 2 : 28 + (i - 11) * 2;
        put(image, at + to, unit);
      }
    }
  }
  for (size_t i = 0; i < 11; ++i) put(image, at + i, static_cast<uint8_t>(alias[i]));
  put(image, at + 11, static_cast<uint8_t>(is_folder ? 0x10 : 0x20));
  put(image, at + 20, static_cast<uint16_t>(cluster >> 16));
  put(image, at + 26, static_cast<uint16_t>(cluster));
  put(image, at + 28, size);
  folder_end_[std::string(parent)] = at + 32;
  clusters_[std::string(path)] = cluster;
}

void FatBuilder::add(std::string_view path, std::string_view contents) {
  if (const size_t slash = path.rfind('/'); slash != std::string_view::npos) folder(path.substr(0, slash));
  const auto chain = allocate(contents.size());
  for (size_t i = 0; i < chain.size(); ++i) {
    const auto part = std::as_bytes(std::span(contents.substr(i * cluster_size(), cluster_size())));
    std::ranges::copy(part, image.begin() + static_cast<std::ptrdiff_t>(offset_of(chain[i])));
  }
  put_entry(path, chain.empty() ? 0 : chain.front(), static_cast<uint32_t>(contents.size()), false);
}

}  // namespace minivmm::testing
