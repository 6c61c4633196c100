// A small ISO 9660 file system, with Rock Ridge and Joliet names, made in memory.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "vmm/core/fd.h"

namespace minivmm {

struct IsoFile {
  std::string name;     // in the root folder
  std::string content;  // bytes
};

// A memfd with the image, sealed against change; its size is a multiple of 2 KiB. Only root reads the files
// in the guest. Throws HostError: libarchive is not there, or no space in $TMPDIR, where it keeps the
// contents in a nameless file meanwhile.
UniqueFd make_iso_image(std::string_view volume_id, std::span<const IsoFile> files);

}  // namespace minivmm
