#include "boot/disk/open_any.h"

#include "boot/disk/btrfs.h"
#include "boot/disk/ext.h"
#include "boot/disk/fat.h"
#include "boot/file_system.h"

namespace minivmm {

std::expected<std::unique_ptr<FileReader>, std::string> open_file_system(const ByteSource& partition) {
  const auto kind = probe_file_system(partition);
  if (!kind) {
    if (auto fat = FatReader::open(partition)) return std::move(*fat);
    return std::unexpected("no file system that minivmm knows");
  }
  const auto or_why = [](auto opened) -> std::expected<std::unique_ptr<FileReader>, std::string> {
    if (opened) return std::move(*opened);
    return std::unexpected(opened.error().what);
  };
  if (kind->name.starts_with("ext")) return or_why(ExtReader::open(partition));
  if (kind->name == "btrfs") return or_why(BtrfsReader::open(partition));
  return std::unexpected(kind->name + ", which minivmm does not read");
}

}  // namespace minivmm
