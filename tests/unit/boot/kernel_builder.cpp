#include "tests/unit/boot/kernel_builder.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <array>
#include <cstring>

namespace minivmm::testing {

namespace {

struct Segment {
  uint64_t offset, vaddr, paddr, file_size, memory_size;
};

// paddr is from kLoadAddress on; the third and fourth lie closer together in memory than in the file.
constexpr std::array kSegments{
    Segment{0x10000, kLinkBase, 0, 0x3000, 0x3000},
    Segment{0x20000, kLinkBase + 0x10000, 0x10000, 0x1000, 0x1000},
    Segment{0x30000, 0, 0x11000, 0x800, 0x800},
    Segment{0x40000, kLinkBase + 0x12000, 0x12000, 0x2000, 0x6000},
};

std::byte pattern(size_t segment, uint64_t offset) {
  return static_cast<std::byte>(0x11 * (segment + 1) + offset / 97);
}

constexpr uint32_t kValue32 = 0x81012345;
constexpr uint64_t kValue64 = kLinkBase + 0x4321;
constexpr uint32_t kInverseValue = 0x00345678;

Bytes image_in_memory() {
  Bytes image(kImageSize);
  for (size_t i = 0; i < kSegments.size(); ++i) {
    for (uint64_t at = 0; at < kSegments[i].file_size; ++at) image[kSegments[i].paddr + at] = pattern(i, at);
  }
  put(image, kPlace32, kValue32);
  put(image, kPlace64, kValue64);
  put(image, kInversePlace, kInverseValue);
  return image;
}

void append32(Bytes& to, uint64_t v) {
  put(to, to.size(), static_cast<uint32_t>(v));
}

void append_relocations(Bytes& to, Relocations kind) {
  if (kind == Relocations::none) return;
  append32(to, 0);
  append32(to, kLinkBase + kPlace64);
  if (kind != Relocations::two_lists) {
    append32(to, 0);
    append32(to, kLinkBase + kInversePlace);
  }
  if (kind == Relocations::four_lists) append32(to, 0);
  append32(to, 0);
  append32(to, kLinkBase + kPlace32);
  if (kind == Relocations::outside) append32(to, kLinkBase + kImageSize - 2);
}

void append_lz4_legacy(Bytes& to, const Bytes& data) {
  constexpr size_t kBlock = 8 << 20;
  append32(to, 0x184c2102);
  for (size_t at = 0; at < data.size(); at += kBlock) {
    const auto size = static_cast<int>(std::min(kBlock, data.size() - at));
    std::vector<char> out(static_cast<size_t>(LZ4_compressBound(size)));
    const int n = LZ4_compress_default(reinterpret_cast<const char*>(data.data()) + at, out.data(), size,
                                       static_cast<int>(out.size()));
    append32(to, static_cast<uint32_t>(n));
    const auto bytes = std::as_bytes(std::span(out).first(static_cast<size_t>(n)));
    to.insert(to.end(), bytes.begin(), bytes.end());
  }
}

Bytes gzip(const Bytes& data) {
  Bytes out(data.size() + 1024);
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// As scripts/xz_wrap.sh calls xz for x86: with the BCJ filter.
Bytes xz(const Bytes& data) {
  lzma_options_lzma options{};
  lzma_lzma_preset(&options, 0);
  const std::array filters{lzma_filter{LZMA_FILTER_X86, nullptr}, lzma_filter{LZMA_FILTER_LZMA2, &options},
                           lzma_filter{LZMA_VLI_UNKNOWN, nullptr}};
  Bytes out(data.size() + 4096);
  size_t size = 0;
  EXPECT_EQ(lzma_stream_buffer_encode(const_cast<lzma_filter*>(filters.data()), LZMA_CHECK_CRC32, nullptr,
                                      reinterpret_cast<const uint8_t*>(data.data()), data.size(),
                                      reinterpret_cast<uint8_t*>(out.data()), &size, out.size()),
            LZMA_OK);
  out.resize(size);
  return out;
}

Bytes zstd(const Bytes& data) {
  Bytes out(ZSTD_compressBound(data.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), data.data(), data.size(), 3));
  return out;
}

// The program headers follow it.
Elf64_Ehdr elf_header(uint64_t entry, Elf64_Half program_headers) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_entry = entry;
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = program_headers;
  return header;
}

}  // namespace

Bytes make_vmlinux(Relocations relocations) {
  const Bytes image = image_in_memory();
  Bytes file;
  Elf64_Ehdr header = elf_header(kLoadAddress + kEntryOffset, kSegments.size());
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 2;
  for (size_t i = 0; i < kSegments.size(); ++i) {
    const Segment& s = kSegments[i];
    put(file, sizeof header + i * sizeof(Elf64_Phdr),
        Elf64_Phdr{.p_type = PT_LOAD,
                   .p_flags = PF_R | PF_X,
                   .p_offset = s.offset,
                   .p_vaddr = s.vaddr,
                   .p_paddr = kLoadAddress + s.paddr,
                   .p_filesz = s.file_size,
                   .p_memsz = s.memory_size,
                   .p_align = kAlignment});
    file.resize(std::max<size_t>(file.size(), s.offset + s.file_size));
    std::copy_n(image.begin() + static_cast<std::ptrdiff_t>(s.paddr), s.file_size,
                file.begin() + static_cast<std::ptrdiff_t>(s.offset));
  }
  file.resize(file.size() + 32, std::byte{0x77});  // section names: junk that must not stay in .bss
  header.e_shoff = file.size();
  file.resize(file.size() + 2 * sizeof(Elf64_Shdr), std::byte{0x66});
  put(file, 0, header);
  append_relocations(file, relocations);
  return file;
}

Bytes vmlinux_image(uint64_t delta) {
  Bytes image = image_in_memory();
  put(image, kPlace32, static_cast<uint32_t>(kValue32 + delta));
  put(image, kPlace64, kValue64 + delta);
  put(image, kInversePlace, static_cast<uint32_t>(kInverseValue - delta));
  return image;
}

Bytes compress(std::optional<Compression> compression, const Bytes& data) {
  Bytes out;
  if (!compression) {
    out = {std::byte{0x89}, std::byte{'L'}, std::byte{'Z'}, std::byte{'O'}};
    out.insert(out.end(), data.begin(), data.end());
  } else if (*compression == Compression::gzip) {
    return gzip(data);  // ends with the size as it is
  } else if (*compression == Compression::lz4) {
    append_lz4_legacy(out, data);
  } else {
    out = *compression == Compression::xz ? xz(data) : zstd(data);
  }
  append32(out, data.size());
  return out;
}

Bytes wrap_payload(const Bytes& payload) {
  constexpr uint8_t kSetupSectors = 3;
  constexpr size_t kSetupSize = (size_t{kSetupSectors} + 1) * 512;
  constexpr size_t kPayloadOffset = 0x300;
  Bytes code(kPayloadOffset, std::byte{0x90});
  code.insert(code.end(), payload.begin(), payload.end());
  code.resize((code.size() + 15) / 16 * 16);

  SetupHeader h{};
  h.setup_sects = kSetupSectors;
  h.syssize = static_cast<uint32_t>(code.size() / 16);
  h.boot_flag = kBootFlag;
  h.jump_opcode = 0xeb;
  h.jump_distance = 0x6a;
  h.header = kHeaderMagic;
  h.version = 0x020f;
  h.kernel_version = 0x100;
  h.loadflags = kLoadedHigh;
  h.code32_start = 0x100000;
  h.initrd_addr_max = 0x7fffffff;
  h.kernel_alignment = kAlignment;
  h.relocatable_kernel = 1;
  h.min_alignment = 16;
  h.xloadflags = kXlfKernel64 | kXlf5LevelEnabled;
  h.cmdline_size = 2047;
  h.payload_offset = kPayloadOffset;
  h.payload_length = static_cast<uint32_t>(payload.size());
  h.pref_address = kLoadAddress;
  h.init_size = kInitSize + 0x10000 * static_cast<uint32_t>(code.size() / 0x10000);

  Bytes file(kSetupSize);
  put(file, kSetupHeaderOffset, h);
  constexpr std::string_view kVersion = "6.1.0-test (builder) #1";
  std::memcpy(file.data() + 0x300, kVersion.data(), kVersion.size());
  file.insert(file.end(), code.begin(), code.end());
  return file;
}

Bytes make_bzimage(const BzImageSpec& spec) {
  return wrap_payload(compress(spec.compression, make_vmlinux(spec.relocations)));
}

SetupHeader header_of(const Bytes& bzimage) {
  return get<SetupHeader>(bzimage, kSetupHeaderOffset);
}

void set_header(Bytes& bzimage, const SetupHeader& header) {
  put(bzimage, kSetupHeaderOffset, header);
}

Bytes make_elf(const ElfSpec& spec) {
  Bytes file;
  const Elf64_Ehdr header = elf_header(spec.entry, spec.pvh_entry ? 2 : 1);
  constexpr uint64_t kContent = 0x1000;
  put(file, sizeof header,
      Elf64_Phdr{.p_type = PT_LOAD,
                 .p_flags = PF_R | PF_W | PF_X,
                 .p_offset = kContent,
                 .p_vaddr = spec.vaddr,
                 .p_paddr = spec.paddr,
                 .p_filesz = spec.file_size,
                 .p_memsz = spec.memory_size,
                 .p_align = 0x1000});
  if (spec.pvh_entry) {
    Bytes notes;
    const auto pad = [&] {
      notes.resize((notes.size() + spec.note_alignment - 1) / spec.note_alignment * spec.note_alignment);
    };
    // Another note first, as a vmlinux has them.
    put(notes, 0, Elf64_Nhdr{.n_namesz = 4, .n_descsz = 5, .n_type = 1});
    for (const char c : {'G', 'N', 'U', '\0'}) notes.push_back(static_cast<std::byte>(c));
    pad();
    notes.resize(notes.size() + 5);
    pad();
    put(notes, notes.size(), Elf64_Nhdr{.n_namesz = 4, .n_descsz = 8, .n_type = 18});
    for (const char c : {'X', 'e', 'n', '\0'}) notes.push_back(static_cast<std::byte>(c));
    pad();
    put(notes, notes.size(), *spec.pvh_entry);
    constexpr uint64_t kNotes = 0x800;
    put(file, sizeof header + sizeof(Elf64_Phdr),
        Elf64_Phdr{.p_type = PT_NOTE,
                   .p_flags = PF_R,
                   .p_offset = kNotes,
                   .p_vaddr = 0,
                   .p_paddr = 0,
                   .p_filesz = notes.size(),
                   .p_memsz = notes.size(),
                   .p_align = spec.note_alignment});
    file.resize(kNotes);
    file.insert(file.end(), notes.begin(), notes.end());
  }
  file.resize(kContent);
  file.resize(kContent + spec.file_size, std::byte{0xf4});
  put(file, 0, header);
  return file;
}

}  // namespace minivmm::testing
