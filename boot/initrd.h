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

class Initrd {
 public:
  explicit Initrd(
      const std::filesystem::path&);  // throws HostError: cannot be read, is a directory, is empty
  explicit Initrd(std::vector<std::byte> bytes);

  uint64_t size() const { return size_; }  // bytes
  const std::string& name() const { return name_; }
  // Reads the file straight into guest RAM. Throws HostError, also when the file shrank since it was opened.
  void copy_to(GuestMemory&, Gpa) const;

 private:
  std::string name_;
  UniqueFd file_;
  std::vector<std::byte> bytes_;
  uint64_t size_ = 0;
};

// The highest page-aligned place for `size` bytes of usable RAM below `limit` (exclusive) that touches none
// of `taken`. Throws HostError with the numbers if there is none.
class PlacementMap;
Gpa place_initrd(const PlacementMap&, const Initrd&, uint64_t limit);

}  // namespace minivmm
