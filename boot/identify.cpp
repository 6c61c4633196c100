#include "boot/identify.h"

#include <algorithm>
#include <array>

namespace minivmm {

namespace {

struct Magic {
  size_t offset;
  std::string_view bytes;
  std::string_view is;
};

using namespace std::string_view_literals;

// The first that matches names the file, so the more telling ones come first.
constexpr std::array kMagics{
    Magic{0x38, "ARM\x64"sv, "a Linux kernel for arm64; an x86-64 one is needed"sv},
    Magic{0x38, "RSC\x05"sv, "a Linux kernel for RISC-V; an x86-64 one is needed"sv},
    Magic{0, "\x1f\x8b"sv, "gzip-compressed data; unpack it with gunzip first"sv},
    Magic{0, "\xfd\x37zXZ\0"sv, "xz-compressed data; unpack it with unxz first"sv},
    Magic{0, "\x28\xb5\x2f\xfd"sv, "zstd-compressed data; unpack it with unzstd first"sv},
    Magic{0, "\x02\x21\x4c\x18"sv, "LZ4-compressed data; unpack it with lz4 -d first"sv},
    Magic{0, "\x04\x22\x4d\x18"sv, "LZ4-compressed data; unpack it with lz4 -d first"sv},
    Magic{0, "BZh"sv, "bzip2-compressed data; unpack it with bunzip2 first"sv},
    Magic{0, "QFI\xfb"sv, "a qcow2 disk image; pass it with --disk"sv},
    Magic{0, "KDMV"sv, "a VMDK disk image"sv},
    Magic{0, "vhdxfile"sv, "a VHDX disk image"sv},
    Magic{0, "conectix"sv, "a VHD disk image"sv},
    Magic{0, "070701"sv, "a cpio archive; pass it with --initrd"sv},
    Magic{0, "070702"sv, "a cpio archive; pass it with --initrd"sv},
    Magic{0, "!<arch>\n"sv, "a Debian package or ar archive; unpack it (dpkg -x)"sv},
    Magic{0, "\xed\xab\xee\xdb"sv, "an RPM package; unpack it first"sv},
    Magic{0, "PK\x03\x04"sv, "a zip archive"sv},
    Magic{0x101, "ustar"sv, "a tar archive"sv},
    Magic{0, "\x27\x05\x19\x56"sv, "a U-Boot image; its kernel has to be taken out first"sv},
    Magic{0, "\xd0\x0d\xfe\xed"sv, "a device tree or FIT image"sv},
    Magic{0, "#!"sv, "a script"sv},
    Magic{0x8001, "CD001"sv, "an ISO 9660 (CD) image; its kernel has to be copied out first"sv},
    Magic{0x200, "EFI PART"sv, "a disk image with a GPT; pass it with --disk"sv},
    Magic{0x438, "\x53\xef"sv, "an ext2/3/4 file system; pass it with --disk"sv},
    Magic{0, "XFSB"sv, "an XFS file system; pass it with --disk"sv},
    Magic{0, "hsqs"sv, "a squashfs file system; pass it with --disk"sv},
    Magic{0x10040, "_BHRfS_M"sv, "a btrfs file system; pass it with --disk"sv},
};

bool has(std::span<const std::byte> file, size_t offset, std::string_view bytes) {
  if (offset > file.size() || bytes.size() > file.size() - offset) return false;
  return std::ranges::equal(bytes, file.subspan(offset, bytes.size()), [](char c, std::byte b) {
    return static_cast<unsigned char>(c) == std::to_integer<unsigned char>(b);
  });
}

// A PE file whose sections tell: a unified kernel image wraps the real kernel in its .linux section.
std::string_view describe_pe(std::span<const std::byte> file) {
  const auto head = file.first(std::min<size_t>(file.size(), 4096));
  constexpr std::string_view kSection = ".linux\0\0"sv;
  for (size_t at = 0; at + kSection.size() <= head.size(); ++at) {
    if (has(head, at, kSection)) {
      return "a unified kernel image (UKI); take its kernel out with objcopy -O binary --only-section=.linux"sv;
    }
  }
  return "an EFI or Windows program without a Linux boot header"sv;
}

bool is_text(std::span<const std::byte> file) {
  return std::ranges::all_of(file.first(std::min<size_t>(file.size(), 512)), [](std::byte b) {
    const auto c = std::to_integer<unsigned char>(b);
    return c == '\n' || c == '\r' || c == '\t' || (c >= ' ' && c != 0x7f);
  });
}

}  // namespace

std::string_view describe_file(std::span<const std::byte> file) {
  if (file.empty()) return "an empty file";
  for (const Magic& magic : kMagics) {
    if (has(file, magic.offset, magic.bytes)) return magic.is;
  }
  if (has(file, 0, "MZ")) return describe_pe(file);
  if (has(file, 0x1fe, "\x55\xaa"sv)) return "a raw disk image; pass it with --disk";
  if (is_text(file)) return "a text file";
  if (std::ranges::all_of(file.first(std::min<size_t>(file.size(), 4096)),
                          [](std::byte b) { return b == std::byte{0}; })) {
    return "a file of zeros";
  }
  return "something unknown; a bzImage or an ELF64 vmlinux is needed";
}

}  // namespace minivmm
