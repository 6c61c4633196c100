#include "boot/elf.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "boot/boot_params.h"
#include "boot/entry_state.h"
#include "boot/large_pages.h"
#include "boot/placement.h"
#include "boot/pvh.h"

namespace minivmm {

namespace {

constexpr size_t kMaxProgramHeaders = 64;     // a vmlinux has 5
constexpr uint32_t kXenNotePhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY

template <class T>
T copy_at(std::span<const std::byte> from, uint64_t offset) {
  T out;
  std::memcpy(&out, from.data() + offset, sizeof out);
  return out;
}

bool inside(uint64_t offset, uint64_t size, uint64_t limit) {
  return offset <= limit && size <= limit - offset;
}

Result<void> check_identity(const Elf64_Ehdr& h) {
  if (h.e_ident[EI_CLASS] != ELFCLASS64)
    return fail(Errc::unsupported, "it is a 32-bit ELF; a 64-bit one is needed");
  if (h.e_ident[EI_DATA] != ELFDATA2LSB) return fail(Errc::unsupported, "it is a big-endian ELF");
  if (h.e_machine == EM_AARCH64) return fail(Errc::unsupported, "it is an ELF for arm64, not for x86-64");
  if (h.e_machine != EM_X86_64)
    return fail(Errc::unsupported, "it is an ELF for another machine than x86-64");
  if (h.e_type == ET_REL)
    return fail(Errc::unsupported, "it is an ELF object file (a module?), not a kernel");
  if (h.e_type != ET_EXEC)
    return fail(Errc::unsupported,
                "it is a position-independent ELF, not a kernel; link it at a fixed address");
  return {};
}

}  // namespace

bool ElfLayout::recognize(std::span<const std::byte> file) {
  return file.size() >= SELFMAG && std::memcmp(file.data(), ELFMAG, SELFMAG) == 0;
}

Result<ElfLayout> ElfLayout::parse(std::span<const std::byte> head, uint64_t file_size) {
  if (!recognize(head)) return fail(Errc::invalid, "it is no ELF");
  if (head.size() < sizeof(Elf64_Ehdr)) return fail(Errc::corrupt, "its ELF header is cut off");
  const auto h = copy_at<Elf64_Ehdr>(head, 0);
  if (auto ok = check_identity(h); !ok) return std::unexpected(ok.error());
  if (h.e_phnum == 0) return fail(Errc::invalid, "it has no program headers");
  if (h.e_phentsize != sizeof(Elf64_Phdr))
    return fail(Errc::invalid, "its program headers have a wrong size");
  if (h.e_phnum > kMaxProgramHeaders) return fail(Errc::too_large, "it has too many program headers");
  if (!inside(h.e_phoff, uint64_t{h.e_phnum} * sizeof(Elf64_Phdr), head.size()))
    return fail(Errc::corrupt, "its program headers are cut off");

  ElfLayout layout{.entry = h.e_entry, .loads = {}, .notes = {}, .end = h.e_phoff};
  layout.end += uint64_t{h.e_phnum} * sizeof(Elf64_Phdr);
  const uint64_t sections_size = uint64_t{h.e_shnum} * h.e_shentsize;
  if (sections_size != 0) {
    if (!inside(h.e_shoff, sections_size, file_size))
      return fail(Errc::corrupt, "its section headers are cut off");
    layout.end = std::max(layout.end, h.e_shoff + sections_size);
  }
  for (size_t i = 0; i < h.e_phnum; ++i) {
    const auto p = copy_at<Elf64_Phdr>(head, h.e_phoff + i * sizeof(Elf64_Phdr));
    if (p.p_type != PT_LOAD && p.p_type != PT_NOTE) continue;
    if (!inside(p.p_offset, p.p_filesz, file_size)) return fail(Errc::corrupt, "a segment is cut off");
    layout.end = std::max(layout.end, p.p_offset + p.p_filesz);
    if (p.p_type == PT_NOTE) {
      layout.notes.push_back({p.p_offset, p.p_filesz, p.p_align});
      continue;
    }
    if (p.p_memsz < p.p_filesz)
      return fail(Errc::invalid, "a segment has more bytes in the file than in memory");
    if (p.p_paddr + p.p_memsz < p.p_paddr)
      return fail(Errc::invalid, "a segment wraps around the address space");
    if (p.p_memsz != 0) layout.loads.push_back({p.p_offset, p.p_vaddr, p.p_paddr, p.p_filesz, p.p_memsz});
  }
  if (layout.loads.empty()) return fail(Errc::invalid, "it has nothing to load");
  return layout;
}

std::optional<uint64_t> ElfLayout::physical_entry() const {
  for (const ElfSegment& s : loads) {
    if (entry >= s.paddr && entry - s.paddr < s.memory_size) return entry;
  }
  for (const ElfSegment& s : loads) {
    if (entry >= s.vaddr && entry - s.vaddr < s.memory_size) return entry - s.vaddr + s.paddr;
  }
  return std::nullopt;
}

std::optional<uint32_t> find_pvh_entry(std::span<const std::byte> file, const ElfLayout& layout) {
  for (const ElfNotes& segment : layout.notes) {
    auto notes = file.subspan(segment.offset, segment.size);
    // gABI, "Note Section": name and descriptor are padded to 4 bytes, to 8 where the segment is aligned so.
    const uint64_t align = segment.align == 8 ? 8 : 4;
    const auto padded = [align](uint64_t n) { return (n + align - 1) & ~(align - 1); };
    while (notes.size() >= sizeof(Elf64_Nhdr)) {
      const auto h = copy_at<Elf64_Nhdr>(notes, 0);
      const uint64_t name_at = sizeof(Elf64_Nhdr);
      const uint64_t desc_at = padded(name_at + h.n_namesz);
      if (!inside(desc_at, h.n_descsz, notes.size())) break;
      if (h.n_type == kXenNotePhys32Entry && h.n_namesz == 4 &&
          std::memcmp(notes.data() + name_at, "Xen", 4) == 0 && h.n_descsz >= 4) {
        const uint64_t entry =
            h.n_descsz >= 8 ? copy_at<uint64_t>(notes, desc_at) : copy_at<uint32_t>(notes, desc_at);
        if (entry <= UINT32_MAX) return static_cast<uint32_t>(entry);
      }
      const uint64_t next = padded(desc_at + h.n_descsz);
      if (next >= notes.size()) break;
      notes = notes.subspan(next);
    }
  }
  return std::nullopt;
}

ElfLoader::ElfLoader(std::span<const std::byte> file, ElfLayout layout)
    : file_(file), layout_(std::move(layout)), pvh_entry_(find_pvh_entry(file_, layout_)) {}

Result<ElfLoader> ElfLoader::parse(std::span<const std::byte> file) {
  auto layout = ElfLayout::parse(file, file.size());
  if (!layout) return std::unexpected(layout.error());
  if (!layout->physical_entry()) return fail(Errc::invalid, "its entry lies in none of its segments");
  return ElfLoader(file, *std::move(layout));
}

BootInfo ElfLoader::load(GuestMemory& memory, const BootConfig& config) const {
  PlacementMap map(memory, config);
  uint64_t lowest = ~uint64_t{0};
  uint64_t highest = 0;
  for (const ElfSegment& s : layout_.loads) {
    if (!map.is_free(s.paddr, s.memory_size)) {
      throw HostError(
          ENOMEM,
          fmt::format("the kernel does not fit: a segment of {} KiB belongs at {:#x}, where the guest "
                      "has no free memory (its own boot data ends at {:#x}); give the guest more with "
                      "--memory, or link the segment elsewhere",
                      (s.memory_size + 1023) / 1024, s.paddr, value(kBootDataBase) + kBootDataSize));
    }
    map.take(s.paddr, s.memory_size);
    lowest = std::min(lowest, s.paddr);
    highest = std::max(highest, s.paddr + s.memory_size);
    expect_fill(memory, Gpa{s.paddr}, s.file_size);
    bool ok = memory.write(Gpa{s.paddr}, file_.subspan(s.offset, s.file_size)).has_value();
    if (!config.memory_is_zero && s.memory_size > s.file_size) {
      ok = ok &&
           memory.fill(Gpa{s.paddr + s.file_size}, s.memory_size - s.file_size, std::byte{0}).has_value();
    }
    if (!ok) throw HostError(EFAULT, "a segment's place is outside guest memory");
  }

  const SetupHeader header = plain_elf_header();
  write_command_line(memory, config.cmdline, header.cmdline_size);
  GuestMemory::Range initrd{};
  if (config.initrd) {
    initrd = {config.initrd->place(map, kFourGiB), config.initrd->size()};
    config.initrd->copy_to(memory, initrd.base);
  }

  BootInfo info;
  if (pvh_entry_ && config.prefer_pvh) {
    info = enter_protected32(memory, *pvh_entry_, write_start_info(memory, config, initrd));
    info.kernel_kind = "ELF (PVH entry)";
  } else {
    const uint64_t entry = layout_.physical_entry().value_or(0);  // parse() made sure of it
    if (entry >= kFourGiB) throw HostError(EINVAL, "the kernel's entry lies above 4 GiB; link it lower");
    info = enter_long64(memory, entry, write_boot_params(memory, config, header, initrd), false);
    info.kernel_kind = "ELF (64-bit entry)";
  }
  info.kernel = {Gpa{lowest}, highest - lowest};
  info.initrd = initrd;
  return info;
}

}  // namespace minivmm
