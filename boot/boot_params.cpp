#include "boot/boot_params.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "boot/low_memory.h"
#include "vmm/core/error.h"

namespace minivmm {

SetupHeader plain_elf_header() {
  SetupHeader hdr{};
  hdr.boot_flag = kBootFlag;
  hdr.header = kHeaderMagic;
  hdr.version = 0x020f;
  hdr.loadflags = kLoadedHigh;
  hdr.kernel_alignment = 0x200000;
  hdr.cmdline_size = 2047;
  return hdr;
}

Gpa write_command_line(GuestMemory& memory, std::string_view cmdline, uint64_t cmdline_max) {
  const uint64_t max = std::min(cmdline_max, kCommandLineArea - 1);
  if (cmdline.size() > max) {
    throw HostError(E2BIG,
                    fmt::format("the kernel command line is too long: it has {} bytes, this kernel takes "
                                "{}; shorten it",
                                cmdline.size(), max));
  }
  if (cmdline.find('\0') != std::string_view::npos) {
    throw HostError(EINVAL, "the kernel command line holds a NUL byte; remove it");
  }
  const bool written = memory.write(kCommandLineAddress, std::as_bytes(std::span(cmdline))) &&
                       memory.store(kCommandLineAddress + cmdline.size(), '\0');
  if (!written) throw HostError(ENOMEM, "the guest has no memory at 64 KiB for the command line");
  return kCommandLineAddress;
}

Gpa write_boot_params(GuestMemory& memory, const BootConfig& config, const SetupHeader& hdr,
                      GuestMemory::Range initrd) {
  if (config.e820.size() > kMaxE820Entries) {
    throw HostError(E2BIG, fmt::format("the guest's memory map has {} entries, the boot protocol takes {}",
                                       config.e820.size(), kMaxE820Entries));
  }
  BootParams params{};
  params.acpi_rsdp_addr = value(config.rsdp);
  params.e820_entries = static_cast<uint8_t>(config.e820.size());
  for (size_t i = 0; i < config.e820.size(); ++i) {
    const E820Entry& entry = config.e820[i];
    params.e820_table[i] = {entry.base, entry.size, static_cast<uint32_t>(entry.type)};
  }
  params.hdr = hdr;
  params.hdr.type_of_loader = 0xff;  // "undefined": we have no assigned id
  params.hdr.cmd_line_ptr = static_cast<uint32_t>(value(kCommandLineAddress));
  params.hdr.ramdisk_image = initrd.size == 0 ? 0 : static_cast<uint32_t>(value(initrd.base));
  params.hdr.ramdisk_size = static_cast<uint32_t>(initrd.size);
  if (!memory.write(kBootParamsAddress, std::as_bytes(std::span(&params, 1)))) {
    throw HostError(ENOMEM, "the guest has no memory at 28 KiB for boot_params");
  }
  return kBootParamsAddress;
}

}  // namespace minivmm
