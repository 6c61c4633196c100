#include "boot/pvh.h"

#include <fmt/format.h>

#include <cerrno>
#include <vector>

#include "boot/low_memory.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr uint32_t kStartMagic = 0x336ec578;  // "xEn3" with the top bit set

struct StartInfo {
  uint32_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t nr_modules;
  uint64_t modlist_paddr;
  uint64_t cmdline_paddr;
  uint64_t rsdp_paddr;
  uint64_t memmap_paddr;
  uint32_t memmap_entries;
  uint32_t reserved;
};
static_assert(sizeof(StartInfo) == 56);

struct Module {
  uint64_t paddr;
  uint64_t size;
  uint64_t cmdline_paddr;
  uint64_t reserved;
};
static_assert(sizeof(Module) == 32);

struct MemoryMapEntry {
  uint64_t addr;
  uint64_t size;
  uint32_t type;  // as in e820
  uint32_t reserved;
};
static_assert(sizeof(MemoryMapEntry) == 24);

constexpr Gpa kModuleAddress = kStartInfoAddress + sizeof(StartInfo);
constexpr Gpa kMemoryMapAddress = kModuleAddress + sizeof(Module);
static_assert(value(kMemoryMapAddress) + kMaxE820Entries * sizeof(MemoryMapEntry) <=
              value(kStartInfoAddress) + kPageSize);

}  // namespace

Gpa write_start_info(GuestMemory& memory, const BootConfig& config, GuestMemory::Range initrd) {
  if (config.e820.size() > kMaxE820Entries) {
    throw HostError(E2BIG, fmt::format("the guest's memory map has {} entries, at most {} can be told",
                                       config.e820.size(), kMaxE820Entries));
  }
  std::vector<MemoryMapEntry> map;
  map.reserve(config.e820.size());
  for (const E820Entry& entry : config.e820) {
    map.push_back({entry.base, entry.size, static_cast<uint32_t>(entry.type), 0});
  }
  const Module module{value(initrd.base), initrd.size, 0, 0};
  const StartInfo info{.magic = kStartMagic,
                       .version = 1,
                       .flags = 0,
                       .nr_modules = initrd.size == 0 ? 0U : 1U,
                       .modlist_paddr = initrd.size == 0 ? 0 : value(kModuleAddress),
                       .cmdline_paddr = value(kCommandLineAddress),
                       .rsdp_paddr = value(config.rsdp),
                       .memmap_paddr = value(kMemoryMapAddress),
                       .memmap_entries = static_cast<uint32_t>(map.size()),
                       .reserved = 0};
  const bool written = memory.store(kStartInfoAddress, info) && memory.store(kModuleAddress, module) &&
                       memory.write(kMemoryMapAddress, std::as_bytes(std::span(map)));
  if (!written) throw HostError(ENOMEM, "the guest has no memory at 24 KiB for hvm_start_info");
  return kStartInfoAddress;
}

}  // namespace minivmm
