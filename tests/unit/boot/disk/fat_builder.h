// Small FAT volumes: what the reader's tests and Flatcar's need, and ways to break them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tests/unit/boot/kernel_builder.h"

namespace minivmm::testing {

class FatBuilder {
 public:
  enum class Kind : uint8_t { fat12, fat16, fat32 };
  struct Options {
    Kind kind = Kind::fat32;
    uint32_t clusters = 512;
    uint8_t cluster_sectors = 1;
    bool scattered = false;  // no cluster of a chain lies behind the one before
  };
  FatBuilder() : FatBuilder(Options()) {}
  explicit FatBuilder(const Options& options);

  // Folders of the path are made; names that are not 8.3 in capitals get long entries.
  void add(std::string_view path, std::string_view contents);
  uint32_t next(uint32_t cluster) const;
  void set_next(uint32_t cluster, uint32_t next);
  uint32_t first_cluster(const std::string& path) const { return clusters_.at(path); }

  Bytes image;

 private:
  std::vector<uint32_t> allocate(size_t bytes);
  size_t folder(std::string_view path);  // where its next entry goes
  void put_entry(std::string_view path, uint32_t cluster, uint32_t size, bool is_folder);
  size_t offset_of(uint32_t cluster) const;
  size_t cluster_size() const { return options_.cluster_sectors * size_t{512}; }

  Options options_;
  uint32_t fat_sectors_;
  uint32_t root_sectors_;
  uint32_t free_ = 2;
  uint32_t names_ = 0;
  std::map<std::string, uint32_t> clusters_;               // of files and folders, by path
  std::map<std::string, size_t, std::less<>> folder_end_;  // by path, "" for the root
};

}  // namespace minivmm::testing
