#include "boot/unpacked_kernel.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "boot/command_line.h"
#include "boot/kaslr.h"
#include "boot/large_pages.h"

namespace minivmm {

namespace {

constexpr size_t kPeekSize = 4096;  // an ELF's program headers follow its header

// Can the segments be brought to their places by moving each one down, the first staying where it is? And are
// they where KASLR's arithmetic expects them?
bool layout_is_understood(const ElfLayout& elf, const SetupHeader& h) {
  const ElfSegment& first = elf.loads.front();
  if (first.paddr != h.pref_address || first.vaddr != kKernelMap + h.pref_address) return false;
  if (first.offset % h.kernel_alignment != 0 || first.offset > h.pref_address) return false;
  uint64_t file_end = first.offset;
  uint64_t memory_end = first.paddr;
  for (const ElfSegment& s : elf.loads) {
    if (s.offset < file_end || s.paddr < memory_end) return false;      // unsorted or overlapping
    if (s.offset - first.offset < s.paddr - first.paddr) return false;  // would have to move up
    file_end = s.offset + s.file_size;
    memory_end = s.paddr + s.memory_size;
  }
  if (memory_end - first.paddr > h.init_size) return false;
  return elf.entry >= first.paddr && elf.entry - first.paddr < first.file_size;
}

// A guest told to use less memory than it has, or to set some aside, gets its kernel where it was linked:
// kaslr.c weighs these options, we need not.
bool limits_memory(const std::string& cmdline) {
  return has_option(cmdline, "mem") || has_option(cmdline, "memmap") || has_option(cmdline, "hugepages");
}

}  // namespace

std::optional<UnpackedKernel> UnpackedKernel::plan(const SetupHeader& header,
                                                   std::span<const std::byte> payload) {
  const auto compression = detect_compression(payload);
  uint32_t unpacked_size = 0;
  if (!compression || payload.size() < 2 * sizeof unpacked_size) return std::nullopt;
  // The size is the payload's last word: gzip's own ISIZE, appended by the build for the others.
  std::memcpy(&unpacked_size, payload.data() + payload.size() - sizeof unpacked_size, sizeof unpacked_size);
  // init_size is what the decompressor may use, so a kernel that unpacks to more is none.
  if (unpacked_size < kPeekSize || unpacked_size > header.init_size) return std::nullopt;

  UnpackedKernel kernel;
  kernel.header_ = header;
  kernel.compression_ = *compression;
  kernel.data_ =
      *compression == Compression::gzip ? payload : payload.first(payload.size() - sizeof unpacked_size);
  kernel.unpacked_size_ = unpacked_size;
  std::array<std::byte, kPeekSize> head;
  if (!unpack_prefix(*compression, kernel.data_, head)) return std::nullopt;
  auto elf = ElfLayout::parse(head, unpacked_size);
  if (!elf || !layout_is_understood(*elf, header)) return std::nullopt;
  kernel.lead_ = elf->loads.front().offset;
  kernel.elf_ = *std::move(elf);
  return kernel;
}

uint64_t UnpackedKernel::footprint() const {
  return std::max<uint64_t>(unpacked_size_, lead_ + header_.init_size);
}

std::optional<uint64_t> UnpackedKernel::choose_base(const PlacementMap& map, bool randomize,
                                                    const std::string& cmdline) const {
  const uint64_t preferred = header_.pref_address - lead_;
  if (randomize && !limits_memory(cmdline)) {
    const uint64_t slots = map.slot_count(footprint(), header_.kernel_alignment, preferred, kFourGiB);
    if (slots == 0) return std::nullopt;
    return map.slot(random_below(slots), footprint(), header_.kernel_alignment, preferred, kFourGiB);
  }
  if (!map.is_free(preferred, footprint())) return std::nullopt;
  return preferred;
}

uint64_t UnpackedKernel::move_segments(std::span<std::byte> area) const {
  const uint64_t first_paddr = elf_.loads.front().paddr;
  uint64_t end = lead_;  // of what is in its place
  uint64_t moved_by = 0;
  for (const ElfSegment& s : elf_.loads) {
    const uint64_t place = lead_ + (s.paddr - first_paddr);
    // Between segments that keep their distance lies the file's own padding; elsewhere, what was moved away.
    if (s.offset - place != moved_by) std::memset(area.data() + end, 0, place - end);
    moved_by = s.offset - place;
    if (moved_by != 0) std::memmove(area.data() + place, area.data() + s.offset, s.file_size);
    end = place + s.file_size;
    if (&s != &elf_.loads.back() && s.memory_size > s.file_size) {
      std::memset(area.data() + end, 0, s.memory_size - s.file_size);
      end = place + s.memory_size;
    }
  }
  return end;
}

std::optional<DirectEntry> UnpackedKernel::load(GuestMemory& memory, const BootConfig& config,
                                                const PlacementMap& map) const {
  const bool relocatable = unpacked_size_ > elf_.end;  // else built without CONFIG_RANDOMIZE_BASE
  const bool randomize = relocatable && !has_flag(config.cmdline, "nokaslr");
  const auto base = choose_base(map, randomize, config.cmdline);
  if (!base) return std::nullopt;
  IoVec pieces;
  if (!memory.slices(Gpa{*base}, footprint(), Access::write, pieces) || pieces.size() != 1)
    return std::nullopt;
  const std::span area(static_cast<std::byte*>(pieces[0].iov_base), footprint());

  // Straight into its place: the first segment does not move again.
  expect_fill(memory, Gpa{*base}, unpacked_size_);
  memory.mark_dirty(Gpa{*base}, footprint());
  if (!unpack(compression_, data_, area.first(unpacked_size_))) {
    throw HostError(EINVAL, "cannot unpack the kernel: its compressed payload is damaged; get the file anew");
  }
  std::optional<RelocationTable> table;
  if (relocatable) {
    table = RelocationTable::parse(area.subspan(elf_.end, unpacked_size_ - elf_.end));
    if (!table) return std::nullopt;
  }
  const uint64_t end = move_segments(area);  // at most elf_.end: the table is still whole
  uint64_t virtual_offset = 0;
  if (randomize) {
    virtual_offset = random_virtual_offset(header_.pref_address, header_.init_size, header_.kernel_alignment);
    const auto image = area.subspan(lead_, end - lead_);
    if (!table->apply(image, elf_.loads.front().vaddr, virtual_offset)) return std::nullopt;
  }
  // Behind the image: .bss and .brk, where the rest of the file was unpacked to, and old data after a reboot.
  const uint64_t zero_to = config.memory_is_zero ? std::max(unpacked_size_, end) : area.size();
  std::memset(area.data() + end, 0, zero_to - end);

  const uint64_t kernel = *base + lead_;
  const bool five_levels =
      config.has_la57 && (header_.xloadflags & kXlf5LevelEnabled) != 0 && !has_flag(config.cmdline, "no5lvl");
  return DirectEntry{.entry = kernel + (elf_.entry - elf_.loads.front().paddr),
                     .randomized = randomize,
                     .five_levels = five_levels,
                     .kernel = {Gpa{kernel}, header_.init_size},
                     .virtual_offset = virtual_offset,
                     .physical_offset = kernel - header_.pref_address};
}

}  // namespace minivmm
