// What an image's header and tables say about it, for people.
#pragma once

#include <string>
#include <vector>

#include "devices/block/block_file.h"
#include "devices/block/qcow2/bitmaps.h"
#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

struct ImageInfo {
  Header header;
  std::vector<Snapshot> snapshots;
  std::vector<Bitmap> bitmaps;
  std::vector<std::string> problems;  // what could not be read, one line each
};

// `why` receives a line for a person where the header already is none: the errors of decode_header, Errc::io.
Task<Result<ImageInfo>> read_info(IoEngine&, BlockFile&, std::string& why);

}  // namespace minivmm::qcow2
