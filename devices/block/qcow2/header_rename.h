// Another backing file's name in an image's header, in writes of which any may be lost or torn.
//
// A sector of 512 bytes is written whole or not at all; the header with its extensions and the name may take
// several. So what lies past the first sector is written first, and only where the old header says nothing;
// once that is on stable storage, the first sector switches to it.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "devices/block/qcow2/format.h"

namespace minivmm::qcow2 {

struct BackingChange {
  Header header;                 // as it will be
  std::vector<std::byte> bytes;  // from offset 0: whole sectors
  std::span<const std::byte> behind() const { return std::span(bytes).subspan(512); }  // to be written first
  std::span<const std::byte> first() const { return std::span(bytes).first(512); }     // then this
};

// `cluster` is the header's cluster as it stands (or as much of it as the file has), which `now` was decoded
// from, but for what was changed in the first sector since. Empty `name` and `format`: no backing file. The
// feature name table, which is for people only, is given up where there is no other way. Errc::too_large:
// there is no room for the name.
Result<BackingChange> change_backing(const Header& now, std::span<const std::byte> cluster,
                                     const std::string& name, const std::string& format);

}  // namespace minivmm::qcow2
