#include "devices/block/backing_name.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "devices/block/image_format.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace fs = std::filesystem;

namespace {

// QEMU's rule: a colon before the first slash makes it a protocol ("nbd:unix:/x", "json:{...}").
std::string_view protocol(std::string_view name) {
  const size_t colon = name.find(':');
  if (colon == std::string_view::npos || name.find('/') < colon) return {};
  return name.substr(0, colon);
}

// A name comes from a file: it may hold anything, and goes to a terminal.
std::string printable(std::string_view name) {
  std::string out(name.substr(0, 200));
  std::ranges::replace_if(out, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return out;
}

}  // namespace

std::string resolve_backing_name(std::string_view name, const std::string& image_path, BackingTrust trust) {
  if (name.find('\0') != std::string_view::npos) {
    throw HostError(EINVAL, fmt::format("cannot use the disk image {}: the name of its backing file holds a "
                                        "zero byte",
                                        image_path));
  }
  std::string_view prefix = protocol(name);
  if (prefix == "file") {
    name.remove_prefix(5);
    if (name.starts_with("///")) name.remove_prefix(2);
    prefix = {};
  }
  if (!prefix.empty()) {
    const bool known = std::ranges::any_of(
        disk_schemes(), [&](const DiskScheme& scheme) { return name.starts_with(scheme.prefix); });
    if (known && trust == BackingTrust::trusted) return std::string(name);
    throw HostError(
        EPERM,
        fmt::format("cannot use the disk image {}: its backing file is '{}', which is no local file; {}",
                    image_path, printable(name),
                    known ? "add backing=trusted to open it all the same"
                          : "name a file instead (minivmm disk rebase --unsafe --backing FILE)"));
  }
  const fs::path path(name);
  if (path.is_absolute()) return path.string();
  return (fs::path(image_path).parent_path() / path).string();
}

std::string backing_name_for(const std::string& backing, const std::string& image_path) {
  if (!url_scheme(backing).empty()) return backing;
  const fs::path below = fs::absolute(backing).lexically_normal();
  const fs::path above = fs::absolute(image_path).lexically_normal();
  // A name with a colon would be taken for a protocol.
  std::string name = below.filename().string();
  if (below.parent_path() == above.parent_path() && protocol(name).empty()) return name;
  return below.string();
}

bool is_same_file(const std::string& a, const std::string& b) {
  struct stat one{};
  struct stat two{};
  return ::stat(a.c_str(), &one) == 0 && ::stat(b.c_str(), &two) == 0 && one.st_dev == two.st_dev &&
         one.st_ino == two.st_ino;
}

}  // namespace minivmm
