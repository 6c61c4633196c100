// The entries of the tables of image formats (ImageFormat::open) and of servers.
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
// Read-only, by qemu-nbd (foreign/foreign_image.h).
std::unique_ptr<BlockBackend> open_vmdk_image(ChainOpener& chain, std::unique_ptr<BlockFile> file,
                                              size_t layer);
std::unique_ptr<BlockBackend> open_vdi_image(ChainOpener& chain, std::unique_ptr<BlockFile> file,
                                             size_t layer);
std::unique_ptr<BlockBackend> open_vhdx_image(ChainOpener& chain, std::unique_ptr<BlockFile> file,
                                              size_t layer);

// DiskScheme::open: what a server exports, byte for byte.
std::unique_ptr<BlockBackend> open_nbd_disk(ChainOpener& chain, const std::string& url, size_t layer);

}  // namespace minivmm
