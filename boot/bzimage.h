// A bzImage: its setup header checked field by field, and loading it (Linux's
// Documentation/arch/x86/boot.rst).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "boot/boot_params.h"
#include "boot/kernel_image.h"
#include "boot/unpacked_kernel.h"
#include "vmm/core/error.h"

namespace minivmm {

// What a valid image consists of; the spans point into the file.
struct BzImage {
  SetupHeader header{};
  std::span<const std::byte> protected_mode;  // the code after the setup sectors
  std::span<const std::byte> payload;         // the compressed kernel; empty where the header names none
  std::string version;                        // "6.1.0-41-amd64 (…) #1 SMP …"; may be empty

  // Has it the magic at 0x202? Not whether it is valid.
  static bool recognize(std::span<const std::byte> file);
  static Result<BzImage> parse(std::span<const std::byte> file);
};

class BzImageLoader final : public KernelLoader {
 public:
  explicit BzImageLoader(BzImage image);
  BootInfo load(GuestMemory&, const BootConfig&) const override;

 private:
  BootInfo load_compressed(GuestMemory&, const BootConfig&, PlacementMap&, GuestMemory::Range initrd) const;

  BzImage image_;
  std::optional<UnpackedKernel> unpacked_;  // where the payload can be entered directly
};

}  // namespace minivmm
