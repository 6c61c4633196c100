// The image formats there are, and how one is told from another by its first bytes. A new format is a line in
// image_format.cpp's table; a kind of server is a line in its table of schemes.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "devices/block/block_backend.h"
#include "devices/block/block_file.h"

namespace minivmm {

class ChainOpener;

struct ImageFormat {
  std::string_view name;  // as in format=, and as image headers name it
  std::string_view what;  // "a qcow2 image"
  // Whether the first sector (kSectorSize bytes) is this format's; null: never guessed.
  bool (*probe)(std::span<const std::byte> first_sector);
  // Opens the image in `file`, which becomes layer `layer` of the chain. Throws HostError. Null: the format
  // is recognised, so that nobody takes it for a raw disk, but cannot be read.
  std::unique_ptr<BlockBackend> (*open)(ChainOpener& chain, std::unique_ptr<BlockFile> file, size_t layer);
  bool only_read = false;  // never written, whatever the user asks for
};
std::span<const ImageFormat> image_formats();

const ImageFormat* find_image_format(std::string_view name);  // null: there is none of that name
// What a disk that begins with these bytes (a sector, or the whole file where it is smaller) is taken for;
// raw if nothing else.
const ImageFormat& probe_image_format(std::span<const std::byte> first);

// Disks that are no files: "nbd://host/export".
struct DiskScheme {
  std::string_view prefix;  // "nbd://"
  std::unique_ptr<BlockBackend> (*open)(ChainOpener& chain, const std::string& url, size_t layer);
};
std::span<const DiskScheme> disk_schemes();

// "nbd" of "nbd://host/export"; empty: it is a path.
std::string_view url_scheme(std::string_view text);

}  // namespace minivmm
