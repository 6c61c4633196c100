// The kernel file, opened, mapped and understood once; loaded into guest memory at each start of the guest.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "boot/boot_config.h"
#include "boot/boot_info.h"
#include "vmm/core/fd.h"
#include "vmm/core/guest_memory.h"

namespace minivmm {

// One kind of kernel: what KernelImage found in the file.
class KernelLoader {
 public:
  virtual ~KernelLoader() = default;
  virtual BootInfo load(GuestMemory&, const BootConfig&) const = 0;
};

class KernelImage {
 public:
  // Throws HostError: the file cannot be read, or it is no kernel that can be booted, and what it is instead.
  explicit KernelImage(const std::filesystem::path&);
  // The same from memory that outlives the image; `name` stands for the path in errors.
  KernelImage(std::span<const std::byte> file, std::string name);

  // Writes kernel, initrd, command line, page tables and boot parameters into `memory`. Can be called again
  // after a guest reboot (RAM is dirty then: memory_is_zero = false) and draws new KASLR offsets each time.
  // Thread-safe as long as no two calls share `memory`. Throws HostError when something does not fit, with
  // the numbers.
  BootInfo load(GuestMemory& memory, const BootConfig&) const;

 private:
  void identify();

  std::string name_;
  UniqueFd fd_;  // of the mapping, to see whether it is all there still
  Mapping mapping_;
  std::span<const std::byte> file_;
  std::unique_ptr<const KernelLoader> loader_;
};

}  // namespace minivmm
