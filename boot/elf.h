// ELF64 executables for x86-64: a vmlinux, entered by PVH or at its plain entry, or a small static payload.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "boot/kernel_image.h"
#include "vmm/core/error.h"

namespace minivmm {

struct ElfSegment {  // PT_LOAD
  uint64_t offset;   // in the file
  uint64_t vaddr;
  uint64_t paddr;
  uint64_t file_size;
  uint64_t memory_size;  // at least file_size; the rest is to be zero
};

struct ElfNotes {  // PT_NOTE
  uint64_t offset;
  uint64_t size;
  uint64_t align;
};

struct ElfLayout {
  uint64_t entry;
  std::vector<ElfSegment> loads;  // in the order of the file; not empty
  std::vector<ElfNotes> notes;
  uint64_t end;  // in the file: behind segments, program and section headers

  static bool recognize(std::span<const std::byte> file);
  // `head` is the file's beginning and must hold the program headers; everything named lies within
  // `file_size`.
  static Result<ElfLayout> parse(std::span<const std::byte> head, uint64_t file_size);

  // The physical address of the entry: e_entry is physical in a vmlinux, virtual in most other programs.
  // nullopt if it lies in no segment.
  std::optional<uint64_t> physical_entry() const;
};

// The 32-bit entry that a XEN_ELFNOTE_PHYS32_ENTRY note names (Xen's public/elfnote.h).
std::optional<uint32_t> find_pvh_entry(std::span<const std::byte> file, const ElfLayout&);

class ElfLoader final : public KernelLoader {
 public:
  static Result<ElfLoader> parse(std::span<const std::byte> file);
  BootInfo load(GuestMemory&, const BootConfig&) const override;

 private:
  ElfLoader(std::span<const std::byte> file, ElfLayout layout);

  std::span<const std::byte> file_;
  ElfLayout layout_;
  std::optional<uint32_t> pvh_entry_;
};

}  // namespace minivmm
