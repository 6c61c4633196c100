#include "boot/disk/open_any.h"

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
  if (kind->name.starts_with("ext")) {
    auto ext = ExtReader::open(partition);
    if (ext) return std::move(*ext);
    return std::unexpected(ext.error().what);
  }
  return std::unexpected(kind->name + ", which minivmm does not read");
}

}  // namespace minivmm
