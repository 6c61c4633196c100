// New qcow2 images.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "devices/block/block_file.h"
#include "devices/block/preallocate.h"
#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

using minivmm::Preallocation;

// The defaults are qemu-img's.
struct CreateOptions {
  uint64_t size = 0;  // virtual, in bytes; rounded up to a sector
  uint64_t cluster_size = 65536;
  unsigned refcount_bits = 16;  // 1 to 64, a power of 2
  unsigned version = 3;         // 2 is qemu-img's compat=0.10
  bool extended_l2 = false;
  bool lazy_refcounts = false;
  Compression compression = Compression::zlib;
  std::string backing_file = {};    // as the image will name it: relative to the image's own folder
  std::string backing_format = {};  // with a backing file
  std::string data_file = {};       // likewise
  bool data_file_raw = false;       // which can be read without the image; implies preallocated metadata
  Preallocation preallocation = Preallocation::off;
  // Of preallocated bytes that are written; called now and then.
  std::function<void(uint64_t done, uint64_t total)> progress = {};
};

// nullptr, or why there can be no such image, in one line.
const char* why_not_create(const CreateOptions& options);

// Makes an image of `file`, which is empty (or a block device), and of `data_file` (null without one), which
// reads as zeroes. On stable storage when it ends. Errc::invalid and Errc::too_large (why_not_create),
// Errc::io, Errc::no_space.
Task<Result<void>> write_image(IoEngine&, BlockFile& file, BlockFile* data_file,
                               const CreateOptions& options);

// The image at `path`, which must not be there, and its data file, whose name is relative to `path`'s folder.
// Throws ConfigError for options that make no image, HostError; no file is left behind then.
void create_image(IoEngine&, const std::string& path, const CreateOptions& options);

}  // namespace minivmm::qcow2
