#include "boot/kernel_image.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "boot/bzimage.h"
#include "boot/elf.h"
#include "boot/host_file.h"
#include "boot/identify.h"

namespace minivmm {

KernelImage::KernelImage(const std::filesystem::path& path) : name_(path.string()) {
  HostFile file = open_host_file(path, "kernel");
  mapping_ = Mapping::map(file.size, PROT_READ, MAP_PRIVATE, file.fd.get(), 0, name_.c_str());
  fd_ = std::move(file.fd);
  file_ = mapping_.bytes();
  identify();
}

KernelImage::KernelImage(std::span<const std::byte> file, std::string name)
    : name_(std::move(name)), file_(file) {
  identify();
}

void KernelImage::identify() {
  const auto refuse = [this](std::string_view why) {
    throw HostError(ENOEXEC, fmt::format("cannot boot '{}': {}", name_, why));
  };
  if (BzImage::recognize(file_)) {
    auto image = BzImage::parse(file_);
    if (!image) refuse(image.error().what);
    loader_ = std::make_unique<BzImageLoader>(*std::move(image));
  } else if (ElfLayout::recognize(file_)) {
    auto loader = ElfLoader::parse(file_);
    if (!loader) refuse(loader.error().what);
    loader_ = std::make_unique<ElfLoader>(*std::move(loader));
  } else {
    refuse(fmt::format("it is no kernel image but {}", describe_file(file_)));
  }
}

BootInfo KernelImage::load(GuestMemory& memory, const BootConfig& config) const {
  // A reboot may come days after the start: reading past the end of a file that was cut short is a SIGBUS.
  struct stat now{};
  if (fd_ && (::fstat(fd_.get(), &now) != 0 || static_cast<uint64_t>(now.st_size) < mapping_.size())) {
    throw HostError(EIO,
                    fmt::format("cannot load the kernel '{}' again: the file has become shorter; put it back "
                                "and start anew",
                                name_));
  }
  BootInfo info;
  if (config.e820.empty()) {
    BootConfig with_map = config;
    with_map.e820 = build_e820(memory, {});
    info = loader_->load(memory, with_map);
  } else {
    info = loader_->load(memory, config);
  }
  // The file's pages count as ours while they are mapped in; they come back from the page cache after a
  // reboot.
  if (mapping_.size() != 0) ::madvise(mapping_.data(), mapping_.size(), MADV_DONTNEED);
  return info;
}

}  // namespace minivmm
