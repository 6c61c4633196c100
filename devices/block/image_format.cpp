#include "devices/block/image_format.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

#include "devices/block/open_formats.h"

namespace minivmm {

namespace {

using First = std::span<const std::byte>;

bool has(First first, size_t offset, std::string_view bytes) {
  return first.size() >= offset + bytes.size() &&
         std::memcmp(first.data() + offset, bytes.data(), bytes.size()) == 0;
}

bool is_qcow2(First first) {
  using namespace std::string_view_literals;
  return has(first, 0, "QFI\xfb"sv) && !has(first, 4, "\0\0\0\1"sv);
}
bool is_qcow1(First first) {
  using namespace std::string_view_literals;
  return has(first, 0, "QFI\xfb\0\0\0\1"sv);
}
bool is_qed(First first) {
  using namespace std::string_view_literals;
  return has(first, 0, "QED\0"sv);
}
// Sparse extents, ESX's sparse extents, and the text file that names the extents of a disk in several files.
bool is_vmdk(First first) {
  return has(first, 0, "KDMV") || has(first, 0, "COWD") || has(first, 0, "# Disk DescriptorFile");
}
bool is_vdi(First first) {
  using namespace std::string_view_literals;
  return has(first, 0x40, "\x7f\x10\xda\xbe"sv);
}
bool is_vhdx(First first) {
  return has(first, 0, "vhdxfile");
}
bool is_vhd(First first) {  // dynamic and differencing ones; a fixed one is raw but for its last sector
  return has(first, 0, "conectix");
}

constexpr std::array kFormats{
    ImageFormat{"raw", "a raw disk", nullptr, open_raw_image},
    ImageFormat{"qcow2", "a qcow2 image", is_qcow2, open_qcow2_image},
    ImageFormat{"qcow", "a qcow image of version 1", is_qcow1, nullptr},
    ImageFormat{"qed", "a QED image", is_qed, nullptr},
    ImageFormat{"vmdk", "a VMware image", is_vmdk, open_vmdk_image, true},
    ImageFormat{"vdi", "a VirtualBox image", is_vdi, open_vdi_image, true},
    ImageFormat{"vhdx", "a VHDX image", is_vhdx, open_vhdx_image, true},
    ImageFormat{"vpc", "a VHD image", is_vhd, nullptr},
};

constexpr std::array kSchemes{
    DiskScheme{"nbd://", open_nbd_disk},
    DiskScheme{"nbds://", open_nbd_disk},
    DiskScheme{"nbd+unix://", open_nbd_disk},
    DiskScheme{"nbds+unix://", open_nbd_disk},
};

}  // namespace

std::span<const ImageFormat> image_formats() {
  return kFormats;
}

const ImageFormat* find_image_format(std::string_view name) {
  // What QEMU calls the bytes of a file or of a block device.
  if (name == "file" || name == "host_device") name = "raw";
  const auto* const found = std::ranges::find(kFormats, name, &ImageFormat::name);
  return found == kFormats.end() ? nullptr : found;
}

const ImageFormat& probe_image_format(std::span<const std::byte> first) {
  const auto* const found = std::ranges::find_if(
      kFormats, [&](const ImageFormat& f) { return f.probe != nullptr && f.probe(first); });
  return found == kFormats.end() ? kFormats.front() : *found;
}

std::span<const DiskScheme> disk_schemes() {
  return kSchemes;
}

std::string_view url_scheme(std::string_view text) {
  const size_t end = text.find("://");
  if (end == std::string_view::npos || end == 0) return {};
  const auto is_scheme = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '+' || c == '-' || c == '.';
  };
  return std::ranges::all_of(text.substr(0, end), is_scheme) ? text.substr(0, end) : std::string_view{};
}

}  // namespace minivmm
