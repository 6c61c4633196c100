#include "boot/bzimage.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "boot/entry_state.h"
#include "boot/placement.h"

namespace minivmm {

namespace {

constexpr size_t kSectorSize = 512;
constexpr uint64_t kEntry64 = 0x200;         // of the 64-bit entry in the protected-mode code
constexpr uint32_t kMaxInitSize = 1U << 30;  // KERNEL_IMAGE_SIZE: no x86-64 kernel is larger
constexpr uint32_t kMaxAlignment = 1U << 30;
constexpr uint16_t kOldestProtocol = 0x0206;
constexpr uint16_t kProtocol64 = 0x020c;  // xloadflags, and with them the 64-bit entry

// The kernel's version string, where setup keeps it: "kernel_version" + 0x200 (boot.rst).
std::string version_of(std::span<const std::byte> setup, uint16_t kernel_version) {
  if (kernel_version == 0) return {};
  const size_t at = size_t{kernel_version} + 0x200;
  if (at >= setup.size()) return {};
  std::string text;
  for (const std::byte b : setup.subspan(at).first(std::min<size_t>(setup.size() - at, 128))) {
    const auto c = static_cast<char>(b);
    if (c < ' ' || c > '~') break;
    text += c;
  }
  return text;
}

// "6.1.0-41-amd64 (debian…) #1 SMP…" up to the first blank.
std::string short_version(const std::string& version) {
  return version.substr(0, version.find(' '));
}

// What even an old, shorter header has.
Result<void> check_protocol(const SetupHeader& h) {
  if (h.boot_flag != kBootFlag) return fail(Errc::invalid, "its boot flag at 0x1fe is not 0xaa55");
  if (h.version < kOldestProtocol)
    return fail(Errc::unsupported, "its boot protocol is older than 2.06 (Linux 2.6.22); use a newer kernel");
  if ((h.loadflags & kLoadedHigh) == 0)
    return fail(Errc::unsupported, "it is a zImage (LOADED_HIGH is clear); build a bzImage");
  if (h.version < kProtocol64 || (h.xloadflags & kXlfKernel64) == 0)
    return fail(
        Errc::unsupported,
        "it has no 64-bit entry point (a 32-bit kernel, or older than Linux 3.8); use an x86-64 kernel");
  return {};
}

Result<void> check_fields(const SetupHeader& h) {
  if (!std::has_single_bit(h.kernel_alignment) || h.kernel_alignment < kPageSize ||
      h.kernel_alignment > kMaxAlignment)
    return fail(Errc::invalid, "its kernel_alignment is no power of two from 4 KiB to 1 GiB");
  if (h.init_size == 0 || h.init_size > kMaxInitSize)
    return fail(Errc::invalid, "its init_size is 0 or larger than 1 GiB");
  if (h.pref_address < kHighMemory || h.pref_address > kFourGiB - kMaxInitSize)
    return fail(Errc::invalid, "its pref_address is below 1 MiB or above 3 GiB");
  if (h.pref_address % h.kernel_alignment != 0)
    return fail(Errc::invalid, "its pref_address is not aligned to its kernel_alignment");
  if (h.cmdline_size == 0) return fail(Errc::invalid, "its cmdline_size is 0");
  if (h.initrd_addr_max < kHighMemory) return fail(Errc::invalid, "its initrd_addr_max is below 1 MiB");
  return {};
}

}  // namespace

bool BzImage::recognize(std::span<const std::byte> file) {
  uint32_t magic = 0;
  if (file.size() < 0x202 + sizeof magic) return false;
  std::memcpy(&magic, file.data() + 0x202, sizeof magic);
  return magic == kHeaderMagic;
}

Result<BzImage> BzImage::parse(std::span<const std::byte> file) {
  if (!recognize(file)) return fail(Errc::invalid, "it has no boot header (\"HdrS\" at 0x202)");
  // The header ends where the jump over it leads (boot.rst: 0x0202 + the byte at 0x0201). What lies past its
  // end is code, not a field.
  const size_t header_end = 0x202 + std::to_integer<size_t>(file[0x201]);
  const size_t have = std::min({header_end, file.size(), kSetupHeaderOffset + sizeof(SetupHeader)});
  BzImage image;
  std::memcpy(&image.header, file.data() + kSetupHeaderOffset, have - kSetupHeaderOffset);
  const SetupHeader& h = image.header;
  if (auto ok = check_protocol(h); !ok) return std::unexpected(ok.error());
  if (have < kSetupHeaderOffset + offsetof(SetupHeader, handover_offset))
    return fail(Errc::corrupt, "its boot header ends before init_size");
  if (auto ok = check_fields(h); !ok) return std::unexpected(ok.error());

  const size_t setup_size = (size_t{h.setup_sects == 0 ? uint8_t{4} : h.setup_sects} + 1) * kSectorSize;
  const uint64_t code_size = uint64_t{h.syssize} * 16;
  if (setup_size >= file.size()) return fail(Errc::corrupt, "the file ends inside the setup sectors");
  const auto rest = file.subspan(setup_size);
  // syssize counts 16-byte units: the last one need not be full. More than it says is a signature.
  if (code_size <= kEntry64) return fail(Errc::invalid, "its syssize is too small to hold the 64-bit entry");
  if (code_size >= rest.size() + 16) return fail(Errc::corrupt, "the file is shorter than its syssize says");
  image.protected_mode = rest.first(std::min<size_t>(rest.size(), code_size));
  if (image.protected_mode.size() > h.init_size)
    return fail(Errc::invalid, "its init_size is smaller than its code");
  if (h.payload_length != 0) {
    if (h.payload_offset > image.protected_mode.size() ||
        h.payload_length > image.protected_mode.size() - h.payload_offset)
      return fail(Errc::invalid, "its payload lies outside its code");
    image.payload = image.protected_mode.subspan(h.payload_offset, h.payload_length);
  }
  image.version = version_of(file.first(setup_size), h.kernel_version);
  return image;
}

BzImageLoader::BzImageLoader(BzImage image) : image_(std::move(image)) {
  // Anything about the payload that is not understood leaves the work to the kernel's own decompressor.
  if (auto unpacked = UnpackedKernel::plan(image_.header, image_.payload)) unpacked_ = *std::move(unpacked);
}

BootInfo BzImageLoader::load(GuestMemory& memory, const BootConfig& config) const {
  PlacementMap map(memory, config);
  write_command_line(memory, config.cmdline, image_.header.cmdline_size);

  // The initrd goes as high as it can, so that it is out of the way of whatever the kernel grows into.
  GuestMemory::Range initrd{};
  if (config.initrd) {
    // The place that the kernel cannot do without comes first, should the two compete for little memory.
    PlacementMap without_kernel = map;
    without_kernel.take(image_.header.pref_address, image_.header.init_size);
    const uint64_t limit = std::min<uint64_t>(uint64_t{image_.header.initrd_addr_max} + 1, kFourGiB);
    initrd = {config.initrd->place(without_kernel, limit), config.initrd->size()};
    map.take(value(initrd.base), initrd.size);
    config.initrd->copy_to(memory, initrd.base);
  }

  BootInfo info;
  std::optional<DirectEntry> direct;
  if (config.unpack && unpacked_) direct = unpacked_->load(memory, config, map);
  if (direct) {
    SetupHeader header = image_.header;
    // As the decompressor leaves it: set only if it moved the kernel itself (boot.rst, loadflags bit 1).
    header.loadflags = static_cast<uint8_t>(direct->randomized ? header.loadflags | kKaslrFlag
                                                               : header.loadflags & ~kKaslrFlag);
    const Gpa params = write_boot_params(memory, config, header, initrd);
    info = enter_long64(memory, direct->entry, params, direct->five_levels);
    info.kernel = direct->kernel;
    info.virtual_offset = direct->virtual_offset;
    info.physical_offset = direct->physical_offset;
    info.kernel_kind = fmt::format("bzImage {} ({}, entered directly)", short_version(image_.version),
                                   name_of(unpacked_->compression()));
  } else {
    info = load_compressed(memory, config, map, initrd);
  }
  info.initrd = initrd;
  return info;
}

BootInfo BzImageLoader::load_compressed(GuestMemory& memory, const BootConfig& config, PlacementMap& map,
                                        GuestMemory::Range initrd) const {
  const SetupHeader& h = image_.header;
  const uint64_t preferred = h.pref_address;
  std::optional<uint64_t> base;
  if (map.is_free(preferred, h.init_size)) base = preferred;
  // Elsewhere it runs too if it is relocatable; lower than preferred it would move itself up again.
  if (!base && h.relocatable_kernel != 0)
    base = map.slot(0, h.init_size, h.kernel_alignment, h.pref_address, kFourGiB);
  if (!base) {
    throw HostError(ENOMEM,
                    fmt::format("the kernel does not fit: it needs {} MiB of guest memory in one piece "
                                "from {} MiB on, the largest free piece has {} MiB; give the guest more "
                                "with --memory",
                                (h.init_size + (1U << 20) - 1) >> 20, h.pref_address >> 20,
                                map.largest_free(kFourGiB) >> 20));
  }
  if (!memory.write(Gpa{*base}, image_.protected_mode))
    throw HostError(EFAULT, "the kernel's place is outside guest memory");
  SetupHeader header = h;
  header.code32_start = static_cast<uint32_t>(*base);
  const Gpa params = write_boot_params(memory, config, header, initrd);
  // The decompressor sets up five levels itself where it wants them.
  BootInfo info = enter_long64(memory, *base + kEntry64, params, false);
  info.kernel = {Gpa{*base}, h.init_size};
  info.physical_offset = *base - h.pref_address;
  info.kernel_kind = fmt::format("bzImage {} (unpacks itself)", short_version(image_.version));
  return info;
}

}  // namespace minivmm
