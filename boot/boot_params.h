// The "zero page" that a Linux kernel for x86 is started with (Linux's Documentation/arch/x86/zero-page.rst
// and boot.rst). Only the fields we write or read have names.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "boot/boot_config.h"
#include "vmm/core/guest_memory.h"

namespace minivmm {

inline constexpr uint8_t kLoadedHigh = 1 << 0;  // loadflags
inline constexpr uint8_t kKaslrFlag = 1 << 1;
inline constexpr uint16_t kXlfKernel64 = 1 << 0;  // xloadflags
inline constexpr uint16_t kXlf5LevelEnabled = 1 << 6;
inline constexpr uint16_t kBootFlag = 0xaa55;
inline constexpr uint32_t kHeaderMagic = 0x53726448;  // "HdrS"

#pragma pack(push, 1)
// At offset 0x1f1 of a bzImage and of boot_params (boot.rst, "The Real-Mode Kernel Header").
struct SetupHeader {
  uint8_t setup_sects;
  uint16_t root_flags;
  uint32_t syssize;
  uint16_t ram_size;
  uint16_t vid_mode;
  uint16_t root_dev;
  uint16_t boot_flag;
  uint8_t jump_opcode;
  uint8_t jump_distance;
  uint32_t header;
  uint16_t version;
  uint32_t realmode_swtch;
  uint16_t start_sys_seg;
  uint16_t kernel_version;
  uint8_t type_of_loader;
  uint8_t loadflags;
  uint16_t setup_move_size;
  uint32_t code32_start;
  uint32_t ramdisk_image;
  uint32_t ramdisk_size;
  uint32_t bootsect_kludge;
  uint16_t heap_end_ptr;
  uint8_t ext_loader_ver;
  uint8_t ext_loader_type;
  uint32_t cmd_line_ptr;
  uint32_t initrd_addr_max;
  uint32_t kernel_alignment;
  uint8_t relocatable_kernel;
  uint8_t min_alignment;
  uint16_t xloadflags;
  uint32_t cmdline_size;
  uint32_t hardware_subarch;
  uint64_t hardware_subarch_data;
  uint32_t payload_offset;
  uint32_t payload_length;
  uint64_t setup_data;
  uint64_t pref_address;
  uint32_t init_size;
  uint32_t handover_offset;
  uint32_t kernel_info_offset;
};

struct BootE820Entry {
  uint64_t addr;
  uint64_t size;
  uint32_t type;
};

struct BootParams {
  std::array<uint8_t, 0x70> screen_and_apm;
  uint64_t acpi_rsdp_addr;
  std::array<uint8_t, 0x1e8 - 0x78> unused1;
  uint8_t e820_entries;
  std::array<uint8_t, 0x1f1 - 0x1e9> unused2;
  SetupHeader hdr;
  std::array<uint8_t, 0x2d0 - 0x1f1 - sizeof(SetupHeader)> unused3;
  std::array<BootE820Entry, kMaxE820Entries> e820_table;
  std::array<uint8_t, 4096 - 0x2d0 - kMaxE820Entries * sizeof(BootE820Entry)> unused4;
};
#pragma pack(pop)

inline constexpr size_t kSetupHeaderOffset = 0x1f1;
static_assert(offsetof(SetupHeader, boot_flag) == 0x1fe - kSetupHeaderOffset);
static_assert(offsetof(SetupHeader, header) == 0x202 - kSetupHeaderOffset);
static_assert(offsetof(SetupHeader, version) == 0x206 - kSetupHeaderOffset);
static_assert(offsetof(SetupHeader, loadflags) == 0x211 - kSetupHeaderOffset);
static_assert(offsetof(SetupHeader, ramdisk_image) == 0x218 - kSetupHeaderOffset);
static_assert(offsetof(SetupHeader, cmd_line_ptr) == 0x228 - kSetupHeaderOffset);
static_assert(offsetof(SetupHeader, initrd_addr_max) == 0x22c - kSetupHeaderOffset);
static_assert(offsetof(SetupHeader, xloadflags) == 0x236 - kSetupHeaderOffset);
static_assert(offsetof(SetupHeader, payload_offset) == 0x248 - kSetupHeaderOffset);
static_assert(offsetof(SetupHeader, pref_address) == 0x258 - kSetupHeaderOffset);
static_assert(offsetof(SetupHeader, init_size) == 0x260 - kSetupHeaderOffset);
static_assert(sizeof(SetupHeader) == 0x26c - kSetupHeaderOffset);
static_assert(offsetof(BootParams, acpi_rsdp_addr) == 0x70);
static_assert(offsetof(BootParams, e820_entries) == 0x1e8);
static_assert(offsetof(BootParams, hdr) == kSetupHeaderOffset);
static_assert(offsetof(BootParams, e820_table) == 0x2d0);
static_assert(sizeof(BootParams) == 4096);

// The header an ELF kernel would have had: what early Linux code and boot loaders look at.
SetupHeader plain_elf_header();

// Writes boot_params and the command line to their places in low memory and returns boot_params' address. Of
// `hdr` it fills type_of_loader, the command line's and the initrd's address. Throws HostError if the e820
// map or the command line is too long; `cmdline_max` is in bytes without the terminating 0.
Gpa write_boot_params(GuestMemory&, const BootConfig&, const SetupHeader& hdr, GuestMemory::Range initrd);
Gpa write_command_line(GuestMemory&, std::string_view cmdline, uint64_t cmdline_max);

}  // namespace minivmm
