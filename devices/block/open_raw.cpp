#include <fmt/format.h>

#include "devices/block/chain_opener.h"
#include "devices/block/open_formats.h"
#include "devices/block/raw.h"

namespace minivmm {

std::unique_ptr<BlockBackend> open_raw_image(ChainOpener& chain, std::unique_ptr<BlockFile> file,
                                             size_t layer) {
  auto image = RawImage::open(std::move(file));
  if (image->ignored_bytes() != 0) {
    chain.warn(fmt::format("{}: the last {} bytes are no whole sector; the guest does not see them",
                           chain.layer(layer).path, image->ignored_bytes()));
  }
  return image;
}

}  // namespace minivmm
