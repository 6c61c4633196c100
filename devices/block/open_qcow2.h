// Small steps that opening, creating and converting qcow2 images share.
#pragma once

#include <string>

#include "devices/block/block_file.h"
#include "devices/block/io_engine.h"
#include "devices/block/qcow2/format.h"

namespace minivmm {

// The header of the image in `file`. Throws HostError naming the file and what is wrong with it.
qcow2::Header read_qcow2_header(IoEngine& engine, BlockFile& file);

}  // namespace minivmm
