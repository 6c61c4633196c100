// The entries of the table of image formats (ImageFormat::open).
#pragma once

#include <memory>

#include "devices/block/block_backend.h"
#include "devices/block/block_file.h"

namespace minivmm {

class ChainOpener;

std::unique_ptr<BlockBackend> open_raw_image(ChainOpener& chain, std::unique_ptr<BlockFile> file,
                                             size_t layer);
// With its backing file and its external data file, where its header names them.
std::unique_ptr<BlockBackend> open_qcow2_image(ChainOpener& chain, std::unique_ptr<BlockFile> file,
                                               size_t layer);

}  // namespace minivmm
