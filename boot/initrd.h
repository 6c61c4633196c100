// An initial RAM disk: opened once, copied into guest memory at each start.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "vmm/core/fd.h"
#include "vmm/core/guest_memory.h"

namespace minivmm {

class PlacementMap;

class Initrd {
 public:
  explicit Initrd(const std::filesystem::path&);  // throws HostError: unreadable, a directory, empty
  explicit Initrd(std::vector<std::byte> bytes);

  uint64_t size() const { return size_; }  // bytes
  const std::string& name() const { return name_; }

  // The highest page-aligned place below `limit` (exclusive), which is then taken in the map. Throws
  // HostError with the numbers if there is none.
  Gpa place(PlacementMap&, uint64_t limit) const;
  // Reads the file straight into guest RAM. Throws HostError, also when the file shrank since it was opened.
  void copy_to(GuestMemory&, Gpa) const;

 private:
  std::string name_;
  UniqueFd file_;
  std::vector<std::byte> bytes_;
  uint64_t size_ = 0;
};

}  // namespace minivmm
