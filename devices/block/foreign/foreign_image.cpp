#include "devices/block/foreign/foreign_image.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "devices/block/foreign/vmdk_header.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

std::string name_of(const BlockFile& file, std::string_view format) {
  return fmt::format("{} image {}", format, file.path());
}

void check_header(IoEngine& engine, BlockFile& file, std::string_view format) {
  if (format != "vmdk") return;  // VDI and VHDX name no other file that qemu-nbd would open
  const auto read = [&](uint64_t offset, std::span<std::byte> out) {
    const iovec piece{out.data(), out.size()};
    return engine.run(file.read(engine, offset, std::span(&piece, 1)));
  };
  const std::string why = check_vmdk(read, file.size());
  if (!why.empty()) throw HostError(EINVAL, fmt::format("cannot use the {}: {}", name_of(file, format), why));
}

}  // namespace

ForeignImage::ForeignImage(std::unique_ptr<BlockFile> file, std::string_view format)
    : format_(format),
      file_(std::move(file)),
      server_(file_->fd(), std::string(format), name_of(*file_, format)) {}

std::unique_ptr<ForeignImage> ForeignImage::open(IoEngine& engine, std::unique_ptr<BlockFile> file,
                                                 std::string_view format) {
  check_header(engine, *file, format);
  std::unique_ptr<ForeignImage> image(new ForeignImage(std::move(file), format));
  const std::string name = name_of(*image->file_, format);
  try {
    image->disk_ = NbdDisk::connect(image->server_.take_socket(), name, {.read_only = true});
  } catch (const HostError& e) {
    const std::string reason = image->server_.reason();
    if (reason.empty()) throw;  // it lives: what it answered is the reason
    throw HostError(EINVAL, fmt::format("cannot use the {}: {}", name, reason));
  }
  return image;
}

Task<Result<void>> ForeignImage::resize(IoEngine& /*engine*/, uint64_t /*capacity_bytes*/) {
  co_return fail(Errc::unsupported, "images of other systems are only read; convert it to qcow2 first");
}

}  // namespace minivmm
