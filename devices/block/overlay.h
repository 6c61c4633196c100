// Overlays: a qcow2 image that takes the writes meant for another one.
#pragma once

#include <string>

#include "devices/block/open_disk.h"

namespace minivmm {

// Over the image at `path`, which stays as it is, in a file without a name in $TMPDIR (else /var/tmp): what
// is written is gone with the disk. `options` are the image's. Throws as open_image().
OpenedDisk open_temporary_overlay(IoEngine&, const std::string& path, const OpenImageOptions& options);

// The overlay at `overlay` over the image at `path`; created if it is not there. Throws HostError if it is
// there and is over something else.
OpenedDisk open_overlay(IoEngine&, const std::string& overlay, const std::string& path,
                        const OpenImageOptions& options);

// The same if it is there already.
OpenedDisk open_existing_overlay(IoEngine&, const std::string& overlay, const std::string& path,
                                 const OpenImageOptions& options);

// Whether there is such an overlay; throws HostError if it is over something else.
bool is_overlay_there(IoEngine&, const std::string& overlay, const std::string& path);

}  // namespace minivmm
