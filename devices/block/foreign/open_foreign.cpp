#include <fmt/format.h>

#include <utility>

#include "devices/block/chain_opener.h"
#include "devices/block/foreign/foreign_image.h"
#include "devices/block/open_formats.h"

namespace minivmm {

namespace {

std::unique_ptr<BlockBackend> open_foreign(ChainOpener& chain, std::unique_ptr<BlockFile> file, size_t layer,
                                           std::string_view format) {
  if (layer == 0 && !chain.options().read_only) {
    chain.warn(fmt::format("{}: {} images are only read; overlay=temp or overlay=FILE takes what is written",
                           file->path(), format));
  }
  return ForeignImage::open(chain.engine(), std::move(file), format);
}

}  // namespace

std::unique_ptr<BlockBackend> open_vmdk_image(ChainOpener& chain, std::unique_ptr<BlockFile> file,
                                              size_t layer) {
  return open_foreign(chain, std::move(file), layer, "vmdk");
}

std::unique_ptr<BlockBackend> open_vdi_image(ChainOpener& chain, std::unique_ptr<BlockFile> file,
                                             size_t layer) {
  return open_foreign(chain, std::move(file), layer, "vdi");
}

std::unique_ptr<BlockBackend> open_vhdx_image(ChainOpener& chain, std::unique_ptr<BlockFile> file,
                                              size_t layer) {
  return open_foreign(chain, std::move(file), layer, "vhdx");
}

}  // namespace minivmm
