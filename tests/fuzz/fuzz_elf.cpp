// A file taken for an ELF kernel: parsed and loaded into a small guest at both entries.
#include <cstddef>
#include <cstdint>
#include <span>

#include "boot/elf.h"
#include "boot/kernel_image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto memory = minivmm::GuestMemory::anonymous({{minivmm::Gpa{0}, 4 << 20}});
  const auto file = std::as_bytes(std::span(data, size));
  // Also as the decompressor's peek sees it: headers only, of a larger file.
  (void)minivmm::ElfLayout::parse(file, uint64_t{1} << 30);
  for (const bool pvh : {true, false}) {
    minivmm::BootConfig config;
    config.prefer_pvh = pvh;
    try {
      minivmm::KernelImage(file, "fuzz").load(memory, config);
    } catch (const minivmm::HostError&) {  // no kernel, or it does not fit
    }
  }
  return 0;
}
