// What an image's header says of the file below it, and whether that is opened.
#pragma once

#include <string>
#include <string_view>

#include "devices/block/disk_spec.h"

namespace minivmm {

// The path that `name` means in an image at `image_path`: relative names are relative to the image's folder.
// Throws HostError for what is no local file's name ("json:{...}", "nbd://host", "ssh:..."), unless it is a
// URL that we can open and `trust` allows it.
std::string resolve_backing_name(std::string_view name, const std::string& image_path, BackingTrust trust);

// How an image at `image_path` should name `backing`, so that both can be moved together: relative if they
// share a folder, else absolute. A URL is its own name.
std::string backing_name_for(const std::string& backing, const std::string& image_path);

// Whether both paths are there and are the same file or device.
bool is_same_file(const std::string& a, const std::string& b);

}  // namespace minivmm
