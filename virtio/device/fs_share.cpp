#include "virtio/device/fs_share.h"

#include <fmt/format.h>

#include <algorithm>

#include "vmm/core/error.h"

namespace minivmm {

ShareSpec parse_share_spec(std::string_view text) {
  ShareSpec share;
  std::string_view rest = text;
  const auto cut = [&rest] {
    const size_t colon = rest.rfind(':');
    if (colon == std::string_view::npos) return std::string_view();
    const std::string_view last = rest.substr(colon + 1);
    rest = rest.substr(0, colon);
    return last;
  };
  std::string_view last = cut();
  // "DIR:ro" is a folder whose tag is "ro".
  if ((last == "ro" || last == "rw") && rest.contains(':')) {
    share.read_only = last == "ro";
    last = cut();
  }
  share.folder = rest;
  share.tag = last;
  if (share.folder.empty() || share.tag.empty())
    throw ConfigError(fmt::format("--share {}: write DIR:TAG, or DIR:TAG:ro for reading only", text));
  const bool printable =
      std::ranges::all_of(share.tag, [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
  if (share.tag.size() > kMaxShareTag || !printable)
    throw ConfigError(fmt::format("--share {}: the tag has at most {} printable bytes", text, kMaxShareTag));
  return share;
}

}  // namespace minivmm
