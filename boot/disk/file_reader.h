// Files of a file system that is not mounted: read-only, for what is looked up before the guest runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "vmm/core/error.h"

namespace minivmm {

// The file system is untrusted: every walk is bounded, and its own numbers are checked before they are used.
// Errc::corrupt: it contradicts itself; Errc::unsupported: a feature that is not read here.
class FileReader {
 public:
  FileReader() = default;
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;
  virtual ~FileReader() = default;

  // Of a regular file, in bytes. `path` is "folder/name", from the root. Errc::out_of_range: there is none.
  virtual Result<uint64_t> file_size(std::string_view path) const = 0;
  // Its first `most` bytes, or all of a shorter file. Errc::out_of_range: there is none.
  virtual Result<std::vector<std::byte>> read_file(std::string_view path, uint64_t most) const = 0;
};

// Calls `visit` for each name in "a/b/c" until it gives an error.
template <class F>
Result<void> for_each_name(std::string_view path, F&& visit) {
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view name = path.substr(0, slash);
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    if (name.empty()) continue;
    if (auto done = visit(name); !done) return done;
  }
  return {};
}

}  // namespace minivmm
